"""Hashes of a checkpoint's files: computed while the files are written, compared by all ranks before they are read."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import torch.distributed as dist
import xxhash
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemWriter

from launcher.engines.mesh import process_count, process_rank
from launcher.files import Damaged, FileHash, Hashes, faults_of
from launcher.run.checkpoints import MARKER, METADATA, PROGRESS, hashes_of
from launcher.run.heartbeats import Heartbeat


class HashingWriter(FileSystemWriter):
    """torch's writer, which also keeps the hash of each file that this rank writes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.fs = self._files = _HashingFiles()

    @property
    def hashes(self) -> dict[str, FileHash]:
        """Hashes of the files that this rank has written, by name."""
        return self._files.hashes


class _HashingFiles(FileSystem):
    def __init__(self) -> None:
        self.hashes: dict[str, FileHash] = {}

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[io.IOBase]:
        with super().create_stream(path, mode) as raw:
            stream = _HashingStream(cast(IO[bytes], raw))
            yield stream
            self.hashes[Path(path).name] = FileHash(stream.size, stream.digest.hexdigest())

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        super().rename(path, new_path)
        self.hashes[Path(new_path).name] = self.hashes.pop(Path(path).name)


class _HashingStream(io.IOBase):
    """Writes to the file and updates the hash; torch only appends."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw, self.digest, self.size = raw, xxhash.xxh3_128(), 0

    def write(self, data: Any) -> int:
        self.digest.update(data)
        written = self._raw.write(data)
        self.size += written
        return written

    def tell(self) -> int:
        return self.size

    def fileno(self) -> int:
        return self._raw.fileno()

    def flush(self) -> None:
        if not self._raw.closed:
            self._raw.flush()

    def close(self) -> None:
        self._raw.close()
        super().close()


def fault_of(checkpoint: Path, heartbeat: Heartbeat | None = None) -> str | None:
    """What is wrong with the files of a checkpoint, the same on every rank; None if nothing is wrong.

    All ranks call this. Each file is hashed by one of them, so that together they read the checkpoint once.
    """
    heartbeat = heartbeat or Heartbeat()
    own = _own_fault(checkpoint, heartbeat.beat)
    said: list[str | None] = [own]
    if process_count() > 1:
        said = [None] * process_count()
        with heartbeat.waiting("verify the checkpoint"):
            dist.all_gather_object(said, own)
    return next((fault for fault in said if fault is not None), None)


def _own_fault(checkpoint: Path, beat: Callable[[], object]) -> str | None:
    ranks = process_count()
    rank = process_rank()
    if not checkpoint.is_dir():
        return "the folder is missing"
    if not (checkpoint / MARKER).is_file():
        return f"{MARKER} is missing, so the checkpoint may be incomplete"
    try:
        hashes = hashes_of(checkpoint)
    except Damaged as damaged:
        return str(damaged)
    if hashes is None:  # written by an earlier version: nothing more can be checked
        missing = [name for name in (METADATA, PROGRESS) if not (checkpoint / name).is_file()]
        return f"{missing[0]} is missing" if missing else None
    return next(faults_of(checkpoint, dealt(hashes, ranks)[rank], beat), None)


def dealt(hashes: Hashes, ranks: int) -> list[dict[str, FileHash]]:
    """The files that each rank hashes: the largest first, each assigned to the rank with the fewest bytes so far."""
    hands: list[dict[str, FileHash]] = [{} for _ in range(ranks)]
    loads = [0] * ranks
    for name, known in sorted(hashes.items(), key=lambda item: (-item[1].size, item[0])):
        least = loads.index(min(loads))
        hands[least][name] = known
        loads[least] += known.size
    return hands
