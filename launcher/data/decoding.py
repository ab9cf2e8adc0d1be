"""Text files in a named encoding, with the exact position of an invalid byte."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from launcher.errors import DataError

CHUNK = 1 << 20
MARK = "\ufeff"
"""The byte order mark, decoded."""
WIDE = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte order marks and their encodings; the longer ones first, since one begins with the other."""


@contextmanager
def opened_text(path: Path, encoding: str) -> Iterator[TextIO]:
    """The file as text with unchanged line ends; a byte order mark is skipped.

    Raises DataError for an unknown encoding, for bytes invalid in it, and for a file that cannot be read.
    """
    codec = _codec(path, encoding)
    try:
        with path.open(encoding=codec, newline="") as file:
            if file.read(1) != MARK:
                file.seek(0)
            yield file
    except UnicodeError:
        raise DataError(path, _undecodable(path, codec, encoding)) from None
    except OSError as error:
        raise DataError(path, f"cannot be read: {error.strerror or error}") from None


def _codec(path: Path, encoding: str) -> str:
    """The canonical name of a text encoding. Raises DataError."""
    try:
        "".encode(encoding)
        return codecs.lookup(encoding).name
    except (LookupError, ValueError):
        raise DataError(path, f"unknown encoding {encoding!r}; for example utf-8, latin-1 or cp1252") from None


def _undecodable(path: Path, codec: str, encoding: str) -> str:
    """What is wrong with a file that is not in its encoding, and what to do."""
    with path.open("rb") as file:
        start = file.read(4)
    marked = next((name for mark, name in WIDE.items() if start.startswith(mark)), None)
    fix = "save the file as UTF-8, or set its encoding"
    bad = _first_bad_byte(path, codec)
    if bad is None:
        return f"the file is not {encoding}; {fix}"
    return f"byte {bad[1]:#04x} at offset {bad[0]} is not {encoding}; {fix} (`encoding: {marked or 'latin-1'}`, say)"


def _first_bad_byte(path: Path, codec: str) -> tuple[int, int] | None:
    """Its offset in the file and its value; None if no single byte is invalid."""
    decoder, read = codecs.getincrementaldecoder(codec)(), 0
    with path.open("rb") as file:
        while True:
            chunk = file.read(CHUNK)
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                return read - pending + error.start, error.object[error.start]
            except UnicodeError:
                return None
            if not chunk:
                return None
            read += len(chunk)
