"""Starting the ranks of a run on this machine and waiting for them."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress

import psutil

from launcher.run.failures import forget_failures
from launcher.run.folder import RunFolder
from launcher.start.failure import Death, report_failure

PAUSE = 0.2
"""Seconds between two looks at the ranks."""


def run_ranks(
    module: str,
    arguments: Sequence[str],
    *,
    processes: int,
    threads: int,
    folder: RunFolder,
    watch: Callable[[], None],
) -> None:
    """Run `python -m module arguments` as `processes` ranks until all have ended well.

    watch: called a few times a second meanwhile
    Raises what the first failing rank says: RequestError, Stopped or RunFailed.
    """
    folder.logs.mkdir(parents=True, exist_ok=True)
    forget_failures(folder)
    command = [sys.executable, "-P", "-m", module, *arguments]
    with _environment(OMP_NUM_THREADS=str(threads)):
        deaths = _run_one(command, watch) if processes == 1 else _run_many(command, processes, watch)
    if deaths:
        report_failure(folder, deaths)


def _run_one(command: Sequence[str], watch: Callable[[], None]) -> list[Death]:
    """One process, no torchrun. In a session of its own, so that a terminal's Ctrl-C reaches it once, from here."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    with _signals_passed_on():
        while process.poll() is None:
            watch()
            with suppress(subprocess.TimeoutExpired):
                process.wait(PAUSE)
    watch()
    return [] if process.returncode == 0 else [Death(0, process.returncode)]


def _run_many(command: Sequence[str], processes: int, watch: Callable[[], None]) -> list[Death]:
    """Several processes through torchrun's own API, with a rendezvous of their own on this machine.

    It runs in a thread, where it sets no signal handlers: its own would give the ranks seconds to save and
    then kill them, while ours passes the request on and waits.
    """
    with ThreadPoolExecutor(1) as pool, _signals_passed_on():
        outcome = pool.submit(_launch, command, processes)
        while not outcome.done():
            watch()
            wait([outcome], PAUSE)
    watch()
    return outcome.result()


def _launch(command: Sequence[str], processes: int) -> list[Death]:
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=PAUSE,
        local_addr="127.0.0.1",
    )
    try:
        elastic_launch(config, command[0])(*command[1:])
    except ChildFailedError as error:
        return [Death(rank, failure.exitcode) for rank, failure in error.failures.items()]
    return []


@contextmanager
def _signals_passed_on() -> Iterator[None]:
    """Requests to stop go to the ranks, which save and end; a second one makes them end at once."""

    def pass_on(number: int, _: object) -> None:
        for child in psutil.Process().children():
            with suppress(psutil.NoSuchProcess):
                child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
