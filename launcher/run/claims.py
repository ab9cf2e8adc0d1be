"""Whose a run's folder is: by a lock, or, on a file system without locks, by a file that only one process can make.

The system lets go of a lock when its process ends, however it ends. A file stays; it names its process, so that the
next one on the same machine sees whether that has ended. Of a process elsewhere nobody can tell, and a person has to.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO

from launcher.files import Owner

LOCK, CLAIM, TAKING = ".lock", ".claim", ".claim.taking"
_LOCKED: dict[Path, IO[str]] = {}
"""Open lock files of this process; the system lets go of them when it ends, however it ends."""
_CLAIMED: dict[Path, int] = {}
"""Folders that this process holds by a file, with its id: a child that is forked holds none."""


def claim(folder: Path) -> bool:
    """Hold a folder until this process ends. False where another process holds it, or may hold it."""
    if folder in _LOCKED or _CLAIMED.get(folder) == os.getpid():
        return True
    lock = (folder / LOCK).open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return False
    except OSError:  # a file system without locks
        lock.close()
        return _claim_by_file(folder)
    if _holder_by_file(folder) is not None:  # another machine sees no locks here
        lock.close()
        return False
    _LOCKED[folder] = lock
    return True


def is_claimed(folder: Path) -> bool:
    """Whether another process holds the folder, or may hold it."""
    if folder in _LOCKED or _CLAIMED.get(folder) == os.getpid():
        return False
    try:
        with (folder / LOCK).open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass  # no lock was ever taken, or the file system has none
    return _holder_by_file(folder) is not None


def holder(folder: Path) -> str | None:
    """Who holds a folder by a file, and what to do where that process has ended; None where nobody does."""
    found, file = _holder_by_file(folder), folder / CLAIM
    if found is None and (folder / TAKING).exists():
        found, file = "a process that takes over from one that has ended", folder / TAKING
    if found is None:
        return None
    return (
        f"it is held by {found}, and this file system has no locks to tell whether that is still "
        f"running; if it has ended, remove {file}"
    )


def release_claims() -> None:
    """Let go of all that this process holds by files; locks go by themselves."""
    for folder, pid in list(_CLAIMED.items()):
        if pid == os.getpid():
            del _CLAIMED[folder]
            with suppress(OSError):
                (folder / CLAIM).unlink(missing_ok=True)


atexit.register(release_claims)


def _claim_by_file(folder: Path) -> bool:
    if not (_made(folder / CLAIM) or _taken_over(folder)):
        return False
    _CLAIMED[folder] = os.getpid()
    return True


def _made(file: Path) -> bool:
    """Make a file that says whose it is; False where there is one."""
    try:
        place = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(place, "w", encoding="utf-8") as opened:
        json.dump(asdict(Owner.this()), opened)
        opened.flush()
        os.fsync(opened.fileno())
    return True


def _taken_over(folder: Path) -> bool:
    """Take the place of a process that has ended; of several that try it at once, one may."""
    if _holder_by_file(folder) is not None or not _made(folder / TAKING):
        return False
    try:
        if _holder_by_file(folder) is not None:  # another one was faster, and has finished
            return False
        (folder / CLAIM).unlink(missing_ok=True)
        return _made(folder / CLAIM)
    finally:
        (folder / TAKING).unlink(missing_ok=True)


def _holder_by_file(folder: Path) -> str | None:
    """The process that holds a folder by a file, as far as anybody can know; None where it has surely ended."""
    try:
        owner = Owner(**json.loads((folder / CLAIM).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):  # it is being written
        return "an unknown process"
    return None if owner.is_gone() else str(owner)
