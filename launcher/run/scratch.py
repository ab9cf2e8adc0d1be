"""What the ranks of a run and their launcher share on one machine, where the run's folder has no room for it.

They know nothing of each other but the name of the place, so no other can stand in for one that is not private.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from launcher.job.home import make_private_folder, private_folder
from launcher.run.folder import RunFolder


def scratch(folder: RunFolder, what: str) -> Path:
    """Where a folder of this run and kind lies, if it was made. Raises OSError where this user has none."""
    whose = hashlib.sha256(f"{os.uname().nodename} {folder.path}".encode()).hexdigest()[:16]
    return private_folder(_path()) / f"{whose}-{what}"


def make_scratch(folder: RunFolder, what: str) -> Path:
    """The same, made. Raises OSError where it cannot be, or not so that nobody else can enter it."""
    make_private_folder(_path())
    made = scratch(folder, what)
    made.mkdir(mode=0o700, exist_ok=True)
    return made


def _path() -> Path:
    return Path(tempfile.gettempdir()) / f"adaptrun-{os.getuid()}"
