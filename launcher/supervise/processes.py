"""Starting the ranks of a run on this machine and waiting for them."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from launcher.job.requests import RANK, rank_command
from launcher.run.attempts import Attempt
from launcher.run.failures import Ended, forget_failures, leave_ends
from launcher.run.folder import RunFolder
from launcher.run.heartbeats import HEARTBEAT, Beat, Heartbeats
from launcher.run.rendezvous import LAUNCHER, LISTENER, LOOPBACK, TOKEN, listen_at
from launcher.supervise.failure import report_failure
from launcher.supervise.fork_server import ForkedRank, fork_rank
from launcher.supervise.stop_requests import StopRequests
from launcher.supervise.watchdog import Watchdog

PAUSE = 0.2
"""Seconds between two looks at the ranks."""
Rank = subprocess.Popen[bytes] | ForkedRank
SECONDS_TO_END = 30.0
"""That ranks have to end by themselves once another one has ended badly; then they are killed."""


@dataclass(frozen=True)
class Rendezvous:
    """Where the ranks of all nodes meet: in the store of rank 0.

    node: which of the `nodes` this machine is
    endpoint: host:port of the store
    token: stands before all its keys
    listener: on the machine of rank 0, the socket of the store
    """

    endpoint: str
    token: str
    nodes: int = 1
    node: int = 0
    listener: socket.socket | None = None

    @classmethod
    def at(cls, address: str, token: str, nodes: int = 1) -> Rendezvous:
        """Of the machine of rank 0, where it listens on this address alone. Raises OSError."""
        listener = listen_at(address)
        return cls(f"{address}:{listener.getsockname()[1]}", token, nodes, 0, listener)


def run_ranks(
    target: Path,
    *,
    processes: int,
    threads: int,
    folder: RunFolder,
    watch: Callable[[], None],
    requests: StopRequests | None = None,
    watchdog: Watchdog | None = None,
) -> None:
    """Run `processes` ranks on this machine until all have ended well.

    target: the folder of a planned run, or the file of a request
    folder: keeps what they say
    watch: called a few times a second meanwhile
    requests: those of the caller, where it runs several things that one request stops
    Raises what the first failing rank says: RequestError, Stopped or RunFailed.
    """
    if requests is None:
        with StopRequests().listening() as requests:
            return run_ranks(
                target,
                processes=processes,
                threads=threads,
                folder=folder,
                watch=watch,
                requests=requests,
                watchdog=watchdog,
            )
    requests.check()
    folder.logs.mkdir(parents=True, exist_ok=True)
    forget_failures(folder)
    if not run_agent(rank_command(target), processes, threads, folder, [watch, requests.pass_on], watchdog):
        report_failure(folder, was_asked=requests.count > 0)
    return None


def run_agent(
    command: Sequence[str],
    processes: int,
    threads: int,
    folder: RunFolder,
    look: Sequence[Callable[[], None]],
    watchdog: Watchdog | None = None,
    rendezvous: Rendezvous | None = None,
) -> bool:
    """Start this machine's ranks and wait for their end. Where that is bad, report each and return False.

    look: each called a few times a second meanwhile
    rendezvous: of all machines; None where there is only this one, whose ranks meet on its loopback
    """
    if rendezvous is None and processes > 1:
        rendezvous = Rendezvous.at(LOOPBACK, secrets.token_hex(16))
    heartbeats = Heartbeats(0 if rendezvous is None else rendezvous.node * processes, processes)
    watching = [] if watchdog is None else [lambda: watchdog.look(heartbeats.read())]
    with closing(heartbeats), _started(command, processes, threads, rendezvous, heartbeats) as ranks:
        codes = _codes_at_the_end(ranks, [*look, *watching])
        if codes:
            _leave_ends(folder, codes, heartbeats.read())
    return not codes


def _leave_ends(folder: RunFolder, codes: Mapping[int, int | None], beats: Mapping[int, Beat]) -> None:
    start, host = Attempt.read(folder), socket.gethostname()
    ends = [
        Ended(rank, host, codes.get(rank), str(beats[rank]) if rank in beats else "", _step(beats.get(rank)))
        for rank in sorted({*codes, *beats})
    ]
    leave_ends(folder, ends, 0 if start is None else start.count)


def _step(beat: object) -> int:
    return getattr(beat, "step", 0)


@contextmanager
def _started(
    command: Sequence[str], processes: int, threads: int, rendezvous: Rendezvous | None, heartbeats: Heartbeats
) -> Iterator[dict[int, Rank]]:
    """This machine's ranks by their number; none of them lives on afterwards."""
    first = rendezvous.node * processes if rendezvous is not None else 0
    ranks: dict[int, Rank] = {}
    try:
        for local in range(processes):
            placement = {"OMP_NUM_THREADS": str(threads), **_place(first + local, local, processes, rendezvous)}
            ranks[first + local] = _start_rank(command, first + local, placement, rendezvous, heartbeats)
        if rendezvous is not None and rendezvous.listener is not None:
            rendezvous.listener.close()  # so that it ends with rank 0, and nobody waits there for a rank that is gone
        yield ranks
    finally:
        for process in ranks.values():
            process.kill()
            process.wait()


def _place(rank: int, local: int, processes: int, rendezvous: Rendezvous | None) -> dict[str, str]:
    """Where a rank stands, as torchrun would tell it."""
    nodes = 1 if rendezvous is None else rendezvous.nodes
    place = {"RANK": rank, "LOCAL_RANK": local, "WORLD_SIZE": processes * nodes, "LOCAL_WORLD_SIZE": processes}
    placement = {name: str(number) for name, number in place.items()}
    if rendezvous is not None:
        placement["MASTER_ADDR"], _, placement["MASTER_PORT"] = rendezvous.endpoint.rpartition(":")
    return placement


def _start_rank(
    command: Sequence[str],
    rank: int,
    placement: Mapping[str, str],
    rendezvous: Rendezvous | None,
    heartbeats: Heartbeats,
) -> Rank:
    """In a session of its own, so that a terminal's Ctrl-C reaches it once, from here."""
    ours, handed_on = {LAUNCHER: str(os.getpid()), HEARTBEAT: heartbeats.address_of(rank)}, [heartbeats.descriptor]
    if rendezvous is not None:
        ours[TOKEN] = rendezvous.token
        if rank == 0 and rendezvous.listener is not None:
            handed_on.append(rendezvous.listener.fileno())
            ours[LISTENER] = str(handed_on[-1])
    environment = {**os.environ, **placement, **ours}
    if tuple(command[: len(RANK)]) == RANK:
        forked = fork_rank(command[len(RANK) :], environment, handed_on)
        if forked is not None:
            return forked
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, start_new_session=True, pass_fds=handed_on, env=environment
    )


def _codes_at_the_end(ranks: Mapping[int, Rank], look: Sequence[Callable[[], None]]) -> dict[int, int | None]:
    """Wait until all have ended; once one has ended badly, the others are asked to end, and then killed.

    Returns the exit codes of those that ended badly; None for one that only was ended because of another.
    """
    bad: dict[int, int | None] = {}
    until = float("inf")
    while True:
        alive = {rank: process for rank, process in ranks.items() if process.poll() is None}
        if not bad:
            bad = {rank: process.returncode for rank, process in ranks.items() if process.poll()}
            if bad:
                until = time.monotonic() + SECONDS_TO_END
                _send(alive.values(), signal.SIGTERM)
        if time.monotonic() > until:
            _send(alive.values(), signal.SIGKILL)
        for each in look:
            each()
        if not alive:
            break
        with suppress(subprocess.TimeoutExpired):
            next(iter(alive.values())).wait(PAUSE)
    ended = {rank: process.returncode for rank, process in ranks.items() if process.returncode} if bad else {}
    return {rank: bad.get(rank, code if code > 0 else None) for rank, code in ended.items()}


def _send(processes: Iterable[Rank], number: signal.Signals) -> None:
    for process in processes:
        process.send_signal(number)
