"""Worlds of one to four real ranks that stay alive across the tests of a file.

    def work(rank: int, size: int, value: int) -> int: ...      # a module-level function of a test
    results = worlds.run(3, work, 7)                              # [rank 0's, rank 1's, rank 2's]

Each rank is a process in a gloo group of that size. All are forked from one process that has imported what is heavy, so
a world starts in a moment and its ranks share that memory. A rank that raises fails the test with its own traceback;
its world, and one that does not answer in time, is killed and made anew for the next test.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pickle
import socket
import sys
import traceback
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

REPOSITORY = Path(__file__).resolve().parent.parent
FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(["tests.preloaded"])


class Worlds:
    """The living worlds of a file of tests, by size."""

    def __init__(self) -> None:
        self._worlds: dict[int, _World] = {}
        with patch.dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(REPOSITORY)):
            forkserver.ensure_running()

    def run(self, size: int, work: Callable[..., Any], *arguments: Any, timeout: float = 240.0) -> list[Any]:
        """Call `work(rank, size, *arguments)` on every rank and return what each returned."""
        world = self._worlds.get(size)
        if world is None:
            world = self._worlds[size] = _World(size)
        try:
            return world.run(work, arguments, timeout)
        except _WorldLost:
            self._worlds.pop(size).end(patience=0.0)
            raise

    def end(self) -> None:
        """End every world. The next `run` makes another."""
        while self._worlds:
            self._worlds.popitem()[1].end()


class _WorldLost(AssertionError):
    """A rank raised or did not answer; its world cannot be used again."""


class _World:
    def __init__(self, size: int) -> None:
        port = _free_port()
        self._ranks: list[Connection] = []
        self._processes = []
        for rank in range(size):
            ours, theirs = FORKING.Pipe()
            process = FORKING.Process(target=_serve, args=(rank, size, port, theirs), daemon=True)
            process.start()
            theirs.close()  # so that a rank that dies is noticed at once
            self._ranks.append(ours)
            self._processes.append(process)

    def run(self, work: Callable[..., Any], arguments: tuple[Any, ...], timeout: float) -> list[Any]:
        message = pickle.dumps((work.__module__, work.__qualname__, arguments))
        for connection in self._ranks:
            connection.send_bytes(message)
        return [self._answer(rank, connection, timeout) for rank, connection in enumerate(self._ranks)]

    def _answer(self, rank: int, connection: Connection, timeout: float) -> Any:
        who = f"rank {rank} of {len(self._ranks)}"
        if not connection.poll(timeout):
            raise _WorldLost(f"{who} did not answer within {timeout} s")
        try:
            worked, answer = connection.recv()
        except EOFError:
            raise _WorldLost(f"{who} died") from None
        if not worked:
            raise _WorldLost(f"{who} raised:\n{answer}")
        return answer

    def end(self, patience: float = 5.0) -> None:
        """Let the ranks end by themselves, and kill those that do not within seconds."""
        for connection in self._ranks:
            connection.close()
        for process in self._processes:
            process.join(patience)
            process.kill()
        for process in self._processes:
            process.join()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _serve(rank: int, size: int, port: int, connection: Connection) -> None:
    """What a rank does: join, then call what it is told until it is killed."""
    assert "tests.preloaded" in sys.modules, "what is heavy could not be imported beforehand"
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(size),
        LOCAL_WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    import numpy as np
    import torch
    import torch.distributed as dist

    torch.seed()  # else what no test seeded would be the same in all that were forked
    np.random.seed()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    while True:
        try:
            module, name, arguments = pickle.loads(connection.recv_bytes())
        except EOFError:
            return
        try:
            work: Any = importlib.import_module(module)
            for part in name.split("."):
                work = getattr(work, part)
            connection.send((True, work(rank, size, *arguments)))
        except BaseException:
            connection.send((False, traceback.format_exc()))
