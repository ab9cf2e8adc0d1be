"""Files that appear whole under their name, and whose contents are known again by a hash.

Temporary names differ between all processes, also of other containers and machines. Temporary files of dead processes
are removed when it is certain that they are dead.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path, PurePosixPath

import xxhash

HASHES = "hashes.json"
"""In a folder: size and hash of each of its other files, as they were written."""
SMALL = 4 * 2**20
"""Bytes of a file that are hashed in no time."""
_BUFFER = 16 * 2**20
_NAME_BYTES = 100
"""Of the name that a temporary one stands for; the rest of what a file system takes is for its process."""
_LEFT_FOR_GOOD = 7 * 24 * 3600.0
"""Seconds without a change after which what an unknown process has left is taken for left over."""
_EARLIER = re.compile(r"\.[0-9a-f]{32}(\.npy)?\.\d+\.partial")
"""Temporary names of earlier versions, which hold the process id alone."""
_PARTIAL = re.compile(
    r"\..+\.(?P<host>[\w-]+)-(?P<boot>[0-9a-f]{8})-(?P<namespace>\d+)-(?P<pid>\d+)-(?P<started>\d+)-[0-9a-f]{8}\.partial"
)


@dataclass(frozen=True)
class Owner:
    """A process, known among those of all machines and containers.

    boot: of the kernel, which containers of one machine share
    namespace: in which the process id counts, one a container
    started: when the process was, by the kernel's clock, since process ids are used again
    """

    host: str
    boot: str
    namespace: int
    pid: int
    started: int

    @classmethod
    def this(cls) -> Owner:
        """This process."""
        return cls(*_this_machine(), os.getpid(), _started(os.getpid()) or 0)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    def is_gone(self) -> bool:
        """Whether it has surely ended: that is known of processes of this machine and container alone."""
        here = (self.host, self.boot, self.namespace) == _this_machine() and self.namespace != 0
        return here and _started(self.pid) != self.started


@cache
def _this_machine() -> tuple[str, str, int]:
    """Host, boot and namespace, which is 0 where the system tells none; then no process is known to have ended."""
    host = re.sub(r"[^\w-]", "-", socket.gethostname())[:32] or "localhost"
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").replace("-", "")[:8]
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        boot, namespace = secrets.token_hex(4), 0
    return host, boot, namespace


def _started(pid: int) -> int | None:
    """Ticks of the kernel's clock at which a process was started; None where it has ended."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if state in "ZX" else int(rest[18])


def partial_of(path: Path) -> Path:
    """A name next to `path` that no other process has, nor this one at another time."""
    owner = Owner.this()
    who = f"{owner.host}-{owner.boot}-{owner.namespace}-{owner.pid}-{owner.started}-{secrets.token_hex(4)}"
    name = os.fsencode(path.name)[:_NAME_BYTES].decode("utf-8", "ignore")  # without a letter that was cut
    return path.with_name(f".{name}.{who}.partial")


def remove_leftovers(folder: Path) -> None:
    """Remove what dead processes have left in `folder` under temporary names."""
    for path in folder.glob(".*.partial"):
        if _is_left(path):
            remove(path)


def _is_left(path: Path) -> bool:
    known = _PARTIAL.fullmatch(path.name)
    if known is None and _EARLIER.fullmatch(path.name) is None:
        return False  # not ours
    if known is not None:
        host, boot, *numbers = known.groups()
        if Owner(host, boot, *map(int, numbers)).is_gone():
            return True
    try:
        changed = max(file.lstat().st_mtime for file in (path, *path.rglob("*")))
    except OSError:  # somebody is at it
        return False
    return time.time() - changed > _LEFT_FOR_GOOD


def remove(path: Path) -> None:
    """Remove a file or folder, whoever else may be removing it. Raises OSError where it stays."""
    while path.is_symlink() or path.exists():
        try:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        except FileNotFoundError:
            continue


def write_whole(path: Path, text: str) -> None:
    """Replace a file in one step, so that a reader sees the old or the new text and never a part."""
    beside = partial_of(path)
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class FileHash:
    """What the contents of a file are known by. hash: xxh3_128, in hexadecimal digits"""

    size: int
    hash: str

    @classmethod
    def of(cls, file: Path, beat: Callable[[], object] = lambda: None) -> FileHash:
        """That of a file as it is now; `beat` is called now and then. Raises OSError."""
        digest, size, buffer = xxhash.xxh3_128(), 0, memoryview(bytearray(min(_BUFFER, file.stat().st_size + 1)))
        with file.open("rb", buffering=0) as opened:
            while read := opened.readinto(buffer):
                digest.update(buffer[:read])
                size += read
                beat()
        return cls(size, digest.hexdigest())

    def fault_of(
        self, file: Path, beat: Callable[[], object] = lambda: None, *, size_alone: bool = False
    ) -> str | None:
        """What is wrong with a file that should have these contents; None where nothing is."""
        try:
            found = file.stat()
            if not stat.S_ISREG(found.st_mode):  # a pipe or device may have no end
                return f"{file.name} is not a regular file"
            if found.st_size != self.size:
                return f"{file.name} has {found.st_size:,} bytes, and {self.size:,} were written"
            if not size_alone and FileHash.of(file, beat) != self:
                return f"{file.name} has changed since it was written (its hash differs)"
        except FileNotFoundError:
            return f"{file.name} is missing"
        except OSError as error:
            return f"{file.name} cannot be read: {error.strerror}"
        return None


Hashes = Mapping[str, FileHash]
"""By the names of files in a folder."""


class Damaged(Exception):
    """A file does not hold what was written; the message names it."""


def write_hashes(folder: Path, hashes: Hashes) -> None:
    """Keep the hashes of a folder's files in it."""
    text = json.dumps({name: asdict(known) for name, known in sorted(hashes.items())}, indent=1)
    with (folder / HASHES).open("w", encoding="utf-8") as file:
        file.write(f"{text}\n")
        file.flush()
        os.fsync(file.fileno())


def hash_folder(folder: Path) -> None:
    """Keep the hashes of all files that are in a folder now, and in folders below it."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != HASHES]
    write_hashes(folder, {file.relative_to(folder).as_posix(): FileHash.of(file) for file in files})


def read_hashes(folder: Path) -> dict[str, FileHash]:
    """The hashes of a folder's files. Raises Damaged where they cannot be read, FileNotFoundError without any."""
    try:
        values = json.loads((folder / HASHES).read_text(encoding="utf-8"))
        return {_within(name): FileHash(int(known["size"]), str(known["hash"])) for name, known in values.items()}
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Damaged(f"{HASHES} cannot be read: {error}") from error


def _within(name: str) -> str:
    """The name, where it is of a file below the folder. Raises ValueError."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise ValueError(f"it names {name!r}, which is not in the folder")
    return name


def faults_of(
    folder: Path, hashes: Hashes, beat: Callable[[], object] = lambda: None, *, quickly: bool = False
) -> Iterator[str]:
    """What is wrong with the files of a folder, in order.

    quickly: look at the size of each file and at the contents of the small ones
    """
    for name, known in hashes.items():
        fault = known.fault_of(folder / name, beat, size_alone=quickly and known.size > SMALL)
        if fault is not None:
            yield fault


def fault_of_folder(folder: Path) -> str | None:
    """What is first found wrong with a folder whose files carry hashes; None where nothing is."""
    try:
        return next(faults_of(folder, read_hashes(folder)), None)
    except FileNotFoundError:
        return f"{HASHES} is missing"
    except Damaged as damaged:
        return str(damaged)


def seal(file: Path) -> None:
    """Keep the hash of one file next to it."""
    write_whole(_seal_of(file), json.dumps(asdict(FileHash.of(file))))


def fault_of_sealed(file: Path) -> str | None:
    """What is wrong with a file that was sealed; None where nothing is."""
    try:
        known = FileHash(**json.loads(_seal_of(file).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return f"{_seal_of(file).name}, which holds the hash of {file.name}, is missing or cannot be read"
    return known.fault_of(file)


def _seal_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.hash")
