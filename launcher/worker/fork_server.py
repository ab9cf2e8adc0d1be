"""`python -m launcher.worker.fork_server DESCRIPTOR`: imports what every rank needs once, then forks ranks on demand.

It computes nothing and starts no thread, so a forked rank is as good as a fresh interpreter. Its standard input is a
pipe that the launcher holds open: when the launcher ends, the server kills its ranks and ends too. It ignores requests
to stop, which a cluster sends to all processes: they are for the ranks and the launcher.
"""

from __future__ import annotations

import fcntl
import gc
import os
import selectors
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

from launcher.job.home import settle_home
from launcher.run.forking import ANSWER, Fork, serves
from launcher.run.rendezvous import LAUNCHER

PRELOADED = (
    "torch.distributed.checkpoint",
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "launcher.worker.requests.evaluate",
    "launcher.worker.requests.predict",
    "launcher.worker.requests.prepare",
    "launcher.worker.requests.train",
)
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
LIFELINE = 0
SECONDS_TO_ASK = 10.0
OUT_OF_THE_WAY = 1000
"""Inherited files wait at numbers from here on while those of the server are closed."""


@dataclass(frozen=True)
class Forked:
    """A rank, on the side of the server.

    handle: descriptor that becomes readable when the rank's process ends
    connection: over which it was asked for; it becomes readable when the launcher ends
    """

    pid: int
    handle: int
    connection: socket.socket

    def end(self) -> None:
        """The launcher has ended, and so must the rank."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.handle, signal.SIGKILL)

    def report(self) -> None:
        """The rank has ended; send its exit code, negative for a signal."""
        _, status = os.waitpid(self.pid, 0)
        with suppress(OSError):
            self.connection.sendall(ANSWER.pack(os.waitstatus_to_exitcode(status)))
        self.close()

    def close(self) -> None:
        """Close what belongs to it in this process."""
        os.close(self.handle)
        self.connection.close()


class ForkServer:
    """Forks a rank for each connection.

    environment: under which all was imported
    """

    def __init__(self, listener: socket.socket, environment: Mapping[str, str]) -> None:
        self._listener, self._environment = listener, environment
        self._ranks: list[Forked] = []
        self._taken = {number for number in range(3, OUT_OF_THE_WAY) if is_open(number)}

    def serve(self) -> Fork:
        """Fork ranks until the launcher ends. Returns only in a forked rank: what was asked of it."""
        while True:
            with selectors.DefaultSelector() as selector:
                selector.register(LIFELINE, selectors.EVENT_READ)
                selector.register(self._listener, selectors.EVENT_READ)
                for rank in self._ranks:
                    selector.register(rank.handle, selectors.EVENT_READ, rank)
                    selector.register(rank.connection, selectors.EVENT_READ, rank)
                ready = [(key.fileobj, key.data) for key, _ in selector.select()]
            for source, rank in ready:
                if source == LIFELINE:
                    for each in self._ranks:
                        each.end()
                    sys.exit()
                if rank is None:
                    asked = self._accept()
                    if asked is not None:
                        return asked
                elif rank in self._ranks:  # not yet ended by its other source
                    if source != rank.handle:
                        rank.end()
                    rank.report()
                    self._ranks.remove(rank)

    def _accept(self) -> Fork | None:
        """Fork what a connection asks for, if it can be. Returns the request in the rank, None in the server."""
        connection, _ = self._listener.accept()
        connection.settimeout(SECONDS_TO_ASK)
        inherited: list[int] = []
        try:
            fork, inherited = Fork.receive(connection)
            if self._taken & set(fork.descriptors) or not serves(self._environment, fork.environment):
                connection.sendall(ANSWER.pack(0))
            else:
                server, pid = os.getpid(), os.fork()
                if pid == 0:
                    self._close(connection)
                    become(fork, inherited, server)
                    inherited.clear()
                    return fork
                rank = Forked(pid, os.pidfd_open(pid), connection)
                self._ranks.append(rank)
                socket.send_fds(connection, [ANSWER.pack(pid)], [rank.handle])
                return None
        except (OSError, ValueError):  # the launcher ended; a rank that it did not hear of ends too
            pass
        finally:
            for descriptor in inherited:
                with suppress(OSError):
                    os.close(descriptor)
        return None

    def _close(self, connection: socket.socket) -> None:
        """In a rank: close what only the server uses."""
        self._listener.close()
        connection.close()
        for rank in self._ranks:
            rank.close()


def is_open(descriptor: int) -> bool:
    """Whether this process has a file open under a number."""
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def become(fork: Fork, inherited: Sequence[int], server: int) -> None:
    """Make this forked process what a fresh interpreter would be that the launcher had started."""
    os.setsid()
    for number in IGNORED:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, LIFELINE)
    os.close(nothing)
    waiting = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, OUT_OF_THE_WAY) for descriptor in inherited]
    for descriptor in inherited:
        os.close(descriptor)
    for descriptor, place in zip(waiting, fork.descriptors, strict=True):
        os.dup2(descriptor, place)
        os.close(descriptor)
    sys.stdout, sys.stderr = _output(1, sys.stdout), _output(2, sys.stderr)
    os.chdir(fork.folder)
    os.environ.update(fork.environment)
    os.environ[LAUNCHER] = str(server)
    sys.argv[1:] = fork.arguments
    import numpy as np
    import torch

    np.random.seed()  # else what nobody seeds would be equal in all ranks
    torch.set_num_threads(int(fork.environment.get("OMP_NUM_THREADS", os.cpu_count() or 1)))


def _output(descriptor: int, like: TextIO) -> TextIO:
    """A stream as an interpreter opens it. That of the server takes what is inherited for the file that it had."""
    is_terminal, unbuffered = os.isatty(descriptor), bool(os.environ.get("PYTHONUNBUFFERED"))
    return TextIOWrapper(
        open(descriptor, "wb", closefd=False),
        like.encoding,
        like.errors,
        line_buffering=is_terminal or descriptor == 2,
        write_through=unbuffered,
    )


def main() -> None:
    """Serve, and in each forked process be a rank."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    descriptor = int(sys.argv[1])
    environment = dict(os.environ)
    listener = socket.socket(fileno=fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, OUT_OF_THE_WAY))
    os.close(descriptor)
    settle_home()
    for name in PRELOADED:
        import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a rank then writes to none of the pages that all share
    sys.argv[0] = str(Path(__file__).with_name("__main__.py"))
    ForkServer(listener, environment).serve()
    from launcher.worker.__main__ import main as be_a_rank

    be_a_rank()


if __name__ == "__main__":
    main()
