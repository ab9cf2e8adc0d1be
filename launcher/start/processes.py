"""Starting the ranks of a run on this machine and waiting for them."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

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
    for left in folder.logs.glob("*.failure.json"):
        left.unlink()
    command = [sys.executable, "-P", "-m", module, *arguments]
    with _environment(OMP_NUM_THREADS=str(threads)):
        deaths = _run_one(command, watch) if processes == 1 else _run_many(command, processes, watch)
    if deaths:
        report_failure(folder, deaths)


def _run_one(command: Sequence[str], watch: Callable[[], None]) -> list[Death]:
    """One process, no torchrun. In a session of its own, so that a terminal's Ctrl-C reaches it once, from here."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    def forward(number: int, _: object) -> None:
        process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        while process.poll() is None:
            watch()
            try:
                process.wait(PAUSE)
            except subprocess.TimeoutExpired:
                continue
        watch()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if process.poll() is None:
            process.kill()
            process.wait()
    return [] if process.returncode == 0 else [Death(0, process.returncode)]


def _run_many(command: Sequence[str], processes: int, watch: Callable[[], None]) -> list[Death]:
    """Several processes through torchrun's own API, with a rendezvous of their own on this machine."""
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    from torch.distributed.elastic.multiprocessing import SignalException
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
    with _watching(watch):
        try:
            elastic_launch(config, command[0])(*command[1:])
        except ChildFailedError as error:
            return [Death(rank, failure.exitcode, failure.timestamp) for rank, failure in error.failures.items()]
        except SignalException as stopped:
            return [Death(rank=None, code=-int(stopped.sigval))]
    return []


@contextmanager
def _watching(watch: Callable[[], None]) -> Iterator[None]:
    """Call `watch` from a thread: torchrun keeps the main one for its signals."""
    done = threading.Event()

    def look() -> None:
        while not done.wait(PAUSE):
            watch()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        watch()


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
