"""What the ranks of a run and their launcher share on one machine, where the run's folder has no room for it."""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from launcher.job.home import is_private
from launcher.run.folder import RunFolder


def scratch(folder: RunFolder, what: str) -> Path:
    """Where a folder of this run and kind lies, if it was made. Raises OSError where this user has none."""
    whose = hashlib.sha256(f"{os.uname().nodename} {folder.path}".encode()).hexdigest()[:16]
    return _private_folder() / f"{whose}-{what}"


def make_scratch(folder: RunFolder, what: str) -> Path:
    """The same, made. Raises OSError where it cannot be, or not so that nobody else can enter it."""
    with suppress(FileExistsError):
        _path().mkdir(mode=0o700)
    made = scratch(folder, what)
    made.mkdir(mode=0o700, exist_ok=True)
    return made


def _path() -> Path:
    return Path(tempfile.gettempdir()) / f"adaptrun-{os.getuid()}"


def _private_folder() -> Path:
    """This user's own folder among the temporary files.

    Its name is known, so another user may have made it, or a link: it is taken only where it is a folder that is this
    user's and that nobody else can enter. Raises OSError.
    """
    path = _path()
    if not is_private(path):
        raise PermissionError(f"{path} is not a folder of this user alone; remove it, or set TMPDIR to another place")
    return path
