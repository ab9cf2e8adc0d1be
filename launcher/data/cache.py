"""The cache of prepared data, keyed by everything that they depend on."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from launcher.data.class_folders import FILES, files_within, is_class_folder
from launcher.data.media import named_file
from launcher.data.sources import existing, is_local, read_rows
from launcher.job.pretrained import tokenizer_files
from launcher.job.sections.data import Source
from launcher.job.sections.marks import values_that

FORMAT = 6


def prepared_folder(
    cache: Path, source: Source, settings: Mapping[str, object], columns: Mapping[str, str] | None = None
) -> Path:
    """The folder for `source` prepared under `settings`, which may or may not exist yet.

    columns: those that are read, by role; the image and sound files that they name are part of the key
    Raises DataError for what cannot be read.
    """
    contents = [_content(existing(place)) if is_local(place) else place for place in source.files]
    named = [_digest_of(list(_files_of_rows(place, source, columns or {}))) for place in source.files]
    reading = values_that("data", source)
    key = json.dumps([FORMAT, contents, named, reading, settings], sort_keys=True)
    return cache.expanduser() / "prepared" / hashlib.sha256(key.encode()).hexdigest()[:32]


def tokenizer_identity(place: str, revision: str | None) -> str:
    """Identity of a tokenizer: its files' contents, or its hub id and revision."""
    folder = Path(place)
    if not folder.is_dir():
        return f"{place}@{revision or 'main'}"
    return _digest_of(tokenizer_files(folder))


def _content(place: Path) -> str:
    """Hash of a file or folder; for a folder including the names within it, since some are labels."""
    if not place.is_dir():
        return _digest_of([place])
    files = [file for file in files_within(place) if file.is_file()]
    return json.dumps([_digest_of(files), [file.relative_to(place).as_posix() for file in files]])


def _files_of_rows(place: str, source: Source, columns: Mapping[str, str]) -> Iterator[Path]:
    """The image or sound files that rows name, in the order of the rows."""
    wanted = {role: name for role, name in columns.items() if role in FILES}
    if not wanted or not is_local(place) or is_class_folder(Path(place)):
        return
    for row in read_rows(source.model_copy(update={"source": place}), wanted):
        for value in row.values.values():
            if not isinstance(value, str | Mapping | None):
                return  # the column holds the images themselves
            name = value if not isinstance(value, Mapping) else None if value.get("bytes") else value.get("path")
            file = named_file(row.file, name) if isinstance(name, str) and name else None
            if file is not None and _is_file(file):  # a missing file is reported, with its row, in preparation
                yield file


def _is_file(place: Path) -> bool:
    """Whether a path is a file; False for names that are too long or contain a null byte."""
    try:
        return place.is_file()
    except (OSError, ValueError):
        return False


def _digest_of(files: Sequence[Path]) -> str:
    whole = hashlib.sha256()
    for file in files:
        found = file.stat()
        whole.update(_digest(file, found.st_size, found.st_mtime_ns))
    return whole.hexdigest()


@functools.cache
def _digest(file: Path, size: int, modified: int) -> bytes:
    """Hash of the content; `size` and `modified` only key the cache within a process."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()
