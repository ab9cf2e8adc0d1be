"""What the ranks of a run and their launcher share on one machine alone, beside its run's folder."""

from __future__ import annotations

import getpass
import hashlib
import socket
import tempfile
from pathlib import Path

from launcher.run.folder import RunFolder


def scratch(folder: RunFolder, what: str) -> Path:
    """A folder of this machine, user and run; nobody has made it yet."""
    whose = f"{getpass.getuser()} {socket.gethostname()} {folder.path}"
    return Path(tempfile.gettempdir()) / f"adaptrun-{hashlib.sha256(whose.encode()).hexdigest()[:16]}-{what}"
