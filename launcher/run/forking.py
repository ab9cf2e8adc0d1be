"""How a launcher asks for a rank that is forked from a process which has imported torch and transformers already.

The two meet at a socket that only this user can reach. Each connection is one rank. The launcher sends a `Fork` with
the files that the rank inherits. It is sent the number of the rank's process with a descriptor to signal it by, and
later its exit code. When the launcher ends, the connection is closed, and the rank is killed.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass

FORK_SERVER = "ADAPTRUN_FORK_SERVER"
"""Path of the socket at which ranks are forked. Absent, each rank is a fresh interpreter."""

OF_A_RANK = frozenset({
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS",
    "ADAPTRUN_LAUNCHER", "ADAPTRUN_TOKEN", "ADAPTRUN_LISTENER", "ADAPTRUN_HEARTBEAT", FORK_SERVER,
})  # fmt: skip
READ_LATER = frozenset({
    "COLUMNS", "LINES", "TERM", "PWD", "OLDPWD", "SHLVL", "_", "PYTEST_CURRENT_TEST", "PYTORCH_NVML_BASED_CUDA_CHECK",
})  # fmt: skip
"""Variables that no library reads while it is imported. In all others the rank and the server must agree."""

ANSWER = struct.Struct("<q")
"""Number of the rank's process (0: this environment needs an interpreter of its own), and later its exit code."""
_LENGTH = struct.Struct("<q")
_MOST_DESCRIPTORS = 8


@dataclass(frozen=True)
class Fork:
    """A rank that is asked for.

    arguments: of `launcher.worker`
    folder: in which it works
    environment: all of its variables
    descriptors: numbers of the open files that it inherits, its output and error among them
    """

    arguments: tuple[str, ...]
    folder: str
    environment: Mapping[str, str]
    descriptors: tuple[int, ...]

    def send(self, connection: socket.socket) -> None:
        """Ask for it. Raises OSError."""
        text = json.dumps(asdict(self)).encode()
        socket.send_fds(connection, [_LENGTH.pack(len(text))], self.descriptors)
        connection.sendall(text)

    @classmethod
    def receive(cls, connection: socket.socket) -> tuple[Fork, list[int]]:
        """What is asked for, and the inherited files under the numbers that they have here. Raises OSError."""
        start, received, *_ = socket.recv_fds(connection, _LENGTH.size, _MOST_DESCRIPTORS)
        values = json.loads(receive_all(connection, *_LENGTH.unpack(start)))
        values |= {name: tuple(values[name]) for name in ("arguments", "descriptors")}
        return cls(**values), received


def receive_all(connection: socket.socket, size: int) -> bytes:
    """That many bytes. Raises ConnectionError if the other side ends before."""
    text = b""
    while len(text) < size:
        part = connection.recv(size - len(text))
        if not part:
            raise ConnectionError("the other side has ended")
        text += part
    return text


def serves(imported: Mapping[str, str], environment: Mapping[str, str]) -> bool:
    """Whether what this process has imported under one environment is what another environment would import.

    Some libraries set variables themselves when they are imported; such a value is as good as none.
    """
    names = {*imported, *environment} - OF_A_RANK - READ_LATER
    return all(environment.get(name) in (imported.get(name), os.environ.get(name)) for name in names)
