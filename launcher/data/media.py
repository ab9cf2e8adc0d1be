"""Images and sounds of rows: bytes in the row, or a file that it names."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path

from launcher.data.rows import Row
from launcher.errors import DataError


def content_of(row: Row, role: str) -> tuple[bytes, str]:
    """The bytes of the image or sound in `role`, and the path of its file, empty if the bytes are in the row.

    Raises DataError if there are none, or if the file cannot be read.
    """
    value = row.values[role]
    if isinstance(value, Mapping):  # as parquet files of `datasets` store an image or a sound
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        return value, ""
    if not isinstance(value, str) or not value:
        found = "empty" if not value else f"{type(value).__name__}, neither a path nor bytes"
        raise DataError(row.file, f"the {role} is {found}; name the right column or remove the row", row.number)
    path = named_file(row.file, value)
    try:
        content = _read(path)
    except FileNotFoundError:
        raise DataError(
            row.file, f"there is no {role} {path}; correct the path or remove the row", row.number
        ) from None
    except (OSError, ValueError) as error:
        fault = f"the {role} {path} cannot be read: {error}; correct the path or remove the row"
        raise DataError(row.file, fault, row.number) from None
    if not content:
        raise DataError(row.file, f"the {role} {path} is an empty file; replace or remove it", row.number)
    return content, str(path)


def named_file(data_file: str, name: str) -> Path:
    """The path of a file that a row names, relative to the data file."""
    return Path(data_file).parent / name


def _read(path: Path) -> bytes:
    """The bytes of a regular file; reading a pipe or a device might never end."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ValueError("it is not a regular file")
    return path.read_bytes()
