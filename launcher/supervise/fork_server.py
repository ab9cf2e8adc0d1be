"""Ranks forked from one process that has imported torch and transformers, instead of an interpreter for each."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait as ready
from pathlib import Path
from typing import ClassVar

from launcher.run.forking import ANSWER, FORK_SERVER, Fork, receive_all

_BACKLOG = 1024


class ForkedRank:
    """A rank that a fork server has started, with what `subprocess.Popen` offers of it.

    alive: numbers of all whose end this process has not seen
    """

    alive: ClassVar[set[int]] = set()

    def __init__(self, connection: socket.socket, pid: int, handle: int) -> None:
        self._connection, self.pid, self._handle = connection, pid, handle
        self.returncode: int | None = None
        self.alive.add(pid)

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None as long as it runs."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended. Raises subprocess.TimeoutExpired after so many seconds."""
        if self.returncode is None:
            if not ready([self._connection], timeout):
                raise subprocess.TimeoutExpired("a rank", timeout or 0)
            try:
                (self.returncode,) = ANSWER.unpack(receive_all(self._connection, ANSWER.size))
            except OSError:  # the server has ended, and all that it has forked is killed with it
                self.returncode = -signal.SIGKILL
            self.alive.discard(self.pid)
            self._connection.close()
            os.close(self._handle)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


@contextmanager
def fork_server(threads: int) -> Iterator[None]:
    """Inside, ranks that this process or its children start are forked. Without Linux each stays an interpreter.

    threads: of each rank, at most
    """
    with tempfile.TemporaryDirectory(prefix="adaptrun-", ignore_cleanup_errors=True) as private:
        server = None if FORK_SERVER in os.environ or sys.platform != "linux" else _start(Path(private), threads)
        try:
            yield
        finally:
            if server is not None:
                del os.environ[FORK_SERVER]
                with server:
                    server.kill()


def _start(private: Path, threads: int) -> subprocess.Popen[bytes] | None:
    """Start a server at a socket that only this user can reach; None if the socket cannot be made."""
    place = private / "fork-server"
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            listener.bind(str(place))
        except OSError:  # as where TMPDIR is longer than a socket's path may be
            return None
        listener.listen(_BACKLOG)
        server = subprocess.Popen(
            [sys.executable, "-P", "-m", "launcher.worker.fork_server", str(listener.fileno())],
            stdin=subprocess.PIPE,  # its end tells the server that this process has ended
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=[listener.fileno()],
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        )
    os.environ[FORK_SERVER] = str(place)
    return server


def fork_rank(
    arguments: Sequence[str], environment: Mapping[str, str], descriptors: Sequence[int]
) -> ForkedRank | None:
    """A rank from the server that the environment names; None if there is none, or it cannot serve this environment."""
    place = environment.get(FORK_SERVER)
    if place is None:
        return None
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(place)
        Fork(tuple(arguments), os.getcwd(), environment, (1, 2, *descriptors)).send(connection)
        answer, handles, *_ = socket.recv_fds(connection, ANSWER.size, 1)
        (pid,) = ANSWER.unpack(answer)
        if pid:
            return ForkedRank(connection, pid, handles[0])
    except (OSError, ValueError, LookupError, struct.error):  # a server that could not import ends; a rank says why
        pass
    connection.close()
    return None
