"""Users without a home directory, without a name, or whose home cannot be written, as in containers."""

from __future__ import annotations

import getpass
import os
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

PREFIX = "adaptrun-home-"
DEFAULT_CACHE = "~/.cache/adaptrun"


def settle_home() -> None:
    """Give this process and its children a user name, and a home where there is none.

    Libraries ask for both when they are imported, and fail: torch for the name, those of Hugging Face for the home.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):  # the user has no entry in /etc/passwd
        os.environ["USER"] = f"user-{os.getuid()}"
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = str(_private_home())
        print(f"there is no home directory; caches go to {os.environ['HOME']}; set HOME to keep them", file=sys.stderr)


def usable_cache(cache: str, runs: Path | None) -> str:
    """A writable folder for prepared data: as named, or another, with a line that says so, for an unwritable default.

    runs: their folder, which all nodes see; None takes a private folder of this machine
    """
    if cache != DEFAULT_CACHE or _is_writable(Path(cache).expanduser()):
        return cache
    instead = _private_home() / "cache" if runs is None else runs / ".cache"
    print(f"{cache} cannot be written; prepared data go to {instead} (data.cache chooses another)", file=sys.stderr)
    return str(instead)


def _is_writable(folder: Path) -> bool:
    """Whether a folder can be written or made; what is only made for this machine is none to keep data in."""
    while not folder.exists():
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK) and not folder.name.startswith(PREFIX)


def private_folder(folder: Path) -> Path:
    """The folder, if it is one of this user's, and no link to one, that nobody else can enter.

    Raises PermissionError where another user may have made or can enter it, other OSErrors where there is none.
    """
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(
            f"{folder} is not a folder of this user alone; remove it, or set TMPDIR to another folder"
        )
    return folder


def make_private_folder(folder: Path) -> Path:
    """The same, made where there is none."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    return private_folder(folder)


def _private_home() -> Path:
    """A folder that nobody else could have made or can write; its name is handed on, so it may be any."""
    try:
        return make_private_folder(Path(tempfile.gettempdir()) / f"{PREFIX}{os.getuid()}")
    except PermissionError:
        return Path(tempfile.mkdtemp(prefix=PREFIX))
