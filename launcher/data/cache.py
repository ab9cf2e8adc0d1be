"""Where prepared data are kept: under a key of everything that decides them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from launcher.data.sources import existing, is_local
from launcher.job.data import Source
from launcher.job.pretrained import tokenizer_files

FORMAT = 3


def prepared_folder(cache: Path, source: Source, settings: Mapping[str, object]) -> Path:
    """The folder for `source` prepared under `settings`, which may or may not exist yet."""
    contents = [_content(existing(place)) if is_local(place) else place for place in source.files]
    reading = source.model_dump(mode="json", exclude={"source"})
    key = json.dumps([FORMAT, contents, reading, settings], sort_keys=True)
    return cache.expanduser() / "prepared" / hashlib.sha256(key.encode()).hexdigest()[:32]


def tokenizer_identity(place: str, revision: str | None) -> str:
    """What tells one tokenizer from another: its files' contents, or its hub id and revision."""
    folder = Path(place)
    if not folder.is_dir():
        return f"{place}@{revision or 'main'}"
    return _digest_of(tokenizer_files(folder))


def _content(place: Path) -> str:
    files = sorted(file for file in place.rglob("*") if file.is_file()) if place.is_dir() else [place]
    return _digest_of(files)


def _digest_of(files: Sequence[Path]) -> str:
    whole = hashlib.sha256()
    for file in files:
        found = file.stat()
        whole.update(_digest(file, found.st_size, found.st_mtime_ns))
    return whole.hexdigest()


@lru_cache
def _digest(file: Path, size: int, modified: int) -> bytes:
    """Of the content; size and time only tell, within one process, that it need not be read again."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()
