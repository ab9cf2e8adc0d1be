"""Starting the ranks of a run on this machine and waiting for them."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil

from launcher.errors import RunFailed
from launcher.run.failures import Ended, forget_failures, leave_ends
from launcher.run.folder import RunFolder
from launcher.run.heartbeats import forget_heartbeats, read_heartbeats
from launcher.run.starts import Start
from launcher.start.failure import report_failure
from launcher.start.stopping import StopRequests
from launcher.start.watchdog import Watchdog

PAUSE = 0.2
"""Seconds between two looks at the ranks."""
SECONDS_WITHOUT_RANKS = 20.0
"""After so long with no rank left, torchrun's agent is given up: one that lost its store can wait for minutes."""


class AgentFailed(RunFailed):
    """torchrun's agent of this machine failed: it lost those of other machines, or their ranks' meeting place."""


@dataclass(frozen=True)
class Rendezvous:
    """Where the agents of all nodes meet, one agent a node.

    endpoint: host:port of the node that keeps the store
    address: by which the other nodes reach this one
    """

    nodes: int = 1
    run_id: str = ""
    endpoint: str = "localhost:0"
    keeps_store: bool = True
    address: str = "127.0.0.1"


HERE = Rendezvous()


def run_ranks(
    module: str,
    arguments: Sequence[str],
    *,
    processes: int,
    threads: int,
    folder: RunFolder,
    watch: Callable[[], None],
    requests: StopRequests | None = None,
    watchdog: Watchdog | None = None,
) -> None:
    """Run `python -m module arguments` as `processes` ranks on this machine until all have ended well.

    watch: called a few times a second meanwhile
    requests: those of the caller, where it runs several things that one request stops
    Raises what the first failing rank says: RequestError, Stopped or RunFailed.
    """
    if requests is None:
        with StopRequests().listening() as requests:
            return run_ranks(
                module, arguments, processes=processes, threads=threads, folder=folder, watch=watch, requests=requests
            )
    requests.check()
    folder.logs.mkdir(parents=True, exist_ok=True)
    forget_failures(folder)
    command = [sys.executable, "-P", "-m", module, *arguments]
    look = [watch, requests.pass_on, *([] if watchdog is None else [watchdog.look])]
    if not run_agent(command, processes, threads, folder, look):
        report_failure(folder, was_asked=requests.count > 0)
    return None


def run_agent(
    command: Sequence[str],
    processes: int,
    threads: int,
    folder: RunFolder,
    look: Sequence[Callable[[], None]],
    rendezvous: Rendezvous = HERE,
) -> bool:
    """Start this machine's ranks and wait for their end. Where that is bad, leave word of each and return False.

    look: each called a few times a second meanwhile
    """
    forget_heartbeats(folder)
    with _environment(OMP_NUM_THREADS=str(threads)):
        if processes == 1 and rendezvous.nodes == 1:
            codes = _run_one(command, look)
        else:
            codes = _Agent(command, processes, rendezvous).run(look)
    if codes:
        _leave_ends(folder, codes)
    forget_heartbeats(folder)
    return not codes


def _leave_ends(folder: RunFolder, codes: Mapping[int, int]) -> None:
    beats = read_heartbeats(folder)
    start, host = Start.read(folder), socket.gethostname()
    ends = [
        Ended(rank, host, codes.get(rank), str(beats[rank]) if rank in beats else "", _step(beats.get(rank)))
        for rank in sorted({*codes, *beats})
    ]
    leave_ends(folder, ends, 0 if start is None else start.count)


def _step(beat: object) -> int:
    return getattr(beat, "step", 0)


def _run_one(command: Sequence[str], look: Sequence[Callable[[], None]]) -> dict[int, int]:
    """One process, no torchrun. In a session of its own, so that a terminal's Ctrl-C reaches it once, from here."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None:
        _look(look)
        with suppress(subprocess.TimeoutExpired):
            process.wait(PAUSE)
    _look(look)
    return {} if process.returncode == 0 else {0: process.returncode}


class _Agent:
    """Several processes through torchrun's own API.

    It runs in a thread, where it sets no signal handlers: its own would give the ranks seconds to save and
    then kill them, while ours passes the request on and waits.
    """

    def __init__(self, command: Sequence[str], processes: int, rendezvous: Rendezvous) -> None:
        self._command, self._processes, self._rendezvous = command, processes, rendezvous
        self._codes: dict[int, int] | None = None
        self._problem: BaseException | None = None
        self._alone_since: float | None = None

    def run(self, look: Sequence[Callable[[], None]]) -> dict[int, int]:
        """Exit codes of the ranks that ended badly, those that were only ended because of them included."""
        thread = threading.Thread(target=self._launch, name="agent", daemon=True)
        thread.start()
        had_ranks = False
        while thread.is_alive():
            _look(look)
            thread.join(PAUSE)
            has_ranks = self._has_ranks()
            had_ranks = had_ranks or has_ranks
            if had_ranks and not has_ranks and self._has_been_alone():
                return self._codes or {-1: 1}
        _look(look)
        if self._problem is not None:
            raise AgentFailed(f"torchrun's agent: {type(self._problem).__name__}: {self._problem}") from self._problem
        return self._codes or {}

    def _has_ranks(self) -> bool:
        return any(" ".join(self._command) in " ".join(words) for words in _commands_of_children())

    def _has_been_alone(self) -> bool:
        self._alone_since = self._alone_since or time.monotonic()
        return time.monotonic() - self._alone_since > SECONDS_WITHOUT_RANKS

    def _launch(self) -> None:
        logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

        place = self._rendezvous
        config = LaunchConfig(
            min_nodes=place.nodes,
            max_nodes=place.nodes,
            nproc_per_node=self._processes,
            run_id=place.run_id or uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint=place.endpoint,
            rdzv_configs={} if place.nodes == 1 else {"is_host": place.keeps_store},
            max_restarts=0,
            monitor_interval=PAUSE,
            local_addr=place.address,
        )
        try:
            elastic_launch(config, self._command[0])(*self._command[1:])
        except ChildFailedError as error:
            self._codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        except BaseException as error:
            self._problem = error


def _look(look: Sequence[Callable[[], None]]) -> None:
    for each in look:
        each()


def _commands_of_children() -> Iterator[list[str]]:
    """The command lines of those that live; one may end while it is looked at."""
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if child.status() != psutil.STATUS_ZOMBIE:
                yield child.cmdline()


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set variables that the ranks inherit, and put back what was there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
