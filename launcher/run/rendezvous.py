"""Where the ranks of a run meet, as their launcher tells them: an address of one interface, and a token.

Rank 0 keeps a store of keys there, in a socket that its launcher has bound, so that nobody else listens at that port
and it listens on no other address. The token stands before every key. What is in the store is never unpickled.
"""

from __future__ import annotations

import os
import secrets
import socket

from launcher.run.folder import RunFolder

LAUNCHER = "ADAPTRUN_LAUNCHER"
"""Number of the process that started a rank."""
TOKEN = "ADAPTRUN_TOKEN"
"""What stands before every key of the store."""
LISTENER = "ADAPTRUN_LISTENER"
"""File descriptor of the socket in which rank 0 keeps the store."""
LOOPBACK = "127.0.0.1"

_BACKLOG = 1024
"""Ranks that may wait until rank 0 is ready to serve them."""


def listen_at(address: str) -> socket.socket:
    """A socket that listens on one address of this machine, at a port that was free. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, 0), family=family, backlog=_BACKLOG)


def new_token(folder: RunFolder) -> str:
    """Make a token for a start of a run on several machines, and keep it where only its user can read it."""
    token = secrets.token_hex(16)
    beside = folder.token_file.with_name(f"{folder.token_file.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
        file.write(token)
    beside.replace(folder.token_file)
    return token


def read_token(folder: RunFolder) -> str:
    """The token of the latest start. Raises OSError."""
    return folder.token_file.read_text(encoding="utf-8")
