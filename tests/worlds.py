"""Worlds of one to four real ranks that stay alive across tests, so that importing torch is paid once.

    def work(rank: int, size: int, value: int) -> int: ...      # a module-level function of a test
    results = worlds.run(3, work, 7)                              # [rank 0's, rank 1's, rank 2's]

Each rank is a process in a gloo group of that size. A rank that raises fails the test with its own
traceback; a world that does not answer in time is killed and made anew for the next test.
"""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent


class Worlds:
    """The living worlds of a test session, by size."""

    def __init__(self) -> None:
        self._worlds: dict[int, _World] = {}

    def run(self, size: int, work: Callable[..., Any], *arguments: Any, timeout: float = 120.0) -> list[Any]:
        """Call `work(rank, size, *arguments)` on every rank and return what each returned."""
        world = self._worlds.get(size)
        if world is None:
            world = self._worlds[size] = _World(size)
        try:
            return world.run(work, arguments, timeout)
        except _WorldLost:
            self._worlds.pop(size).end()
            raise

    def end(self) -> None:
        """End every world."""
        for world in self._worlds.values():
            world.end()


class _WorldLost(AssertionError):
    """A rank raised or did not answer; its world cannot be used again."""


class _World:
    def __init__(self, size: int) -> None:
        listener = Listener(("127.0.0.1", 0))
        port = _free_port()
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-P", "-c", "from tests.worlds import serve; serve()"],
                cwd=REPOSITORY,
                env=_rank_environment(rank, size, port, listener.address[1]),
            )
            for rank in range(size)
        ]
        self._ranks: list[Connection] = [None] * size  # type: ignore[list-item]
        for _ in range(size):
            connection = listener.accept()
            self._ranks[connection.recv()] = connection
        listener.close()

    def run(self, work: Callable[..., Any], arguments: tuple[Any, ...], timeout: float) -> list[Any]:
        message = pickle.dumps((work.__module__, work.__qualname__, arguments))
        for connection in self._ranks:
            connection.send_bytes(message)
        answers: list[Any] = []
        for rank, connection in enumerate(self._ranks):
            if not connection.poll(timeout):
                raise _WorldLost(f"rank {rank} of {len(self._ranks)} did not answer within {timeout} s")
            worked, answer = connection.recv()
            if not worked:
                raise _WorldLost(f"rank {rank} of {len(self._ranks)} raised:\n{answer}")
            answers.append(answer)
        return answers

    def end(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _rank_environment(rank: int, size: int, port: int, control: int) -> dict[str, str]:
    import os

    return os.environ | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(REPOSITORY),
        "WORLDS_CONTROL": str(control),
    }


def serve() -> None:
    """What a rank does: join, then call what it is told until it is killed."""
    import importlib
    import os

    import torch
    import torch.distributed as dist

    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    connection = Client(("127.0.0.1", int(os.environ["WORLDS_CONTROL"])))
    connection.send(rank)
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    while True:
        try:
            module, name, arguments = pickle.loads(connection.recv_bytes())
        except EOFError:
            return
        try:
            work = importlib.import_module(module)
            for part in name.split("."):
                work = getattr(work, part)
            connection.send((True, work(rank, size, *arguments)))  # type: ignore[operator]
        except BaseException:
            connection.send((False, traceback.format_exc()))
