"""Text files in a named encoding, whose bad bytes are found to the byte."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from launcher.errors import DataError

CHUNK = 1 << 20


@contextmanager
def opened_text(path: Path, encoding: str) -> Iterator[TextIO]:
    """The file as text whose line ends are left as they are; a byte order mark is skipped.

    Raises DataError for an unknown encoding, and for bytes that are not in it.
    """
    try:
        codec = codecs.lookup(encoding).name
    except LookupError:
        raise DataError(path, f"unknown encoding {encoding!r}; for example utf-8, latin-1 or cp1252") from None
    try:
        with path.open(encoding="utf-8-sig" if codec == "utf-8" else codec, newline="") as file:
            yield file
    except UnicodeDecodeError:
        offset, value = _first_bad_byte(path, codec)
        raise DataError(
            path,
            f"byte {value:#04x} at offset {offset} is not {encoding}; save the file as UTF-8, or say which encoding it "
            "has (`encoding: latin-1`, say)",
        ) from None


def _first_bad_byte(path: Path, codec: str) -> tuple[int, int]:
    """Its offset in the file and its value."""
    decoder, read = codecs.getincrementaldecoder(codec)(), 0
    with path.open("rb") as file:
        while True:
            chunk = file.read(CHUNK)
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                return read - pending + error.start, error.object[error.start]
            read += len(chunk)
