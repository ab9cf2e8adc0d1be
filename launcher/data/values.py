"""A row's values as a task wants them: a text that says something, a label that names a class, a number, a list."""

from __future__ import annotations

from math import isnan

from launcher.data.rows import Row
from launcher.errors import DataError

LARGEST = 3.4e38
"""Numbers are learned in 32 bits, where larger ones are infinite."""
SHOWN = 60
"""Characters of a value that a message shows."""


def text_of(row: Row, role: str = "text") -> str:
    """The text. Raises DataError where it is missing, blank or no text."""
    value = row.values[role]
    if value is None or (isinstance(value, str) and not value.strip()):
        raise DataError(row.file, f"the {role} is empty; remove the row or fill it", row.number)
    if not isinstance(value, str):
        raise DataError(row.file, f"the {role} is {_shown(value)}, not text; name the right column", row.number)
    return value


def label_of(row: Row, role: str = "label") -> str:
    """The label's name; integers become their digits. Raises DataError where there is none."""
    return _label(row, role, row.values[role])


def labels_of(row: Row, role: str = "label") -> list[str]:
    """The names in a list, or in one text with separators; there may be none. Raises DataError."""
    value = row.values[role]
    if isinstance(value, str):
        return [name for part in value.split(row.separator) if (name := part.strip())]
    if isinstance(value, list):
        return [_label(row, role, part) for part in value]
    if value is None or isinstance(value, bool | float):
        raise DataError(
            row.file,
            f"the {role} is {_shown(value)}; several labels are a list, or a text with {row.separator!r} between them, "
            "empty for none",
            row.number,
        )
    return [_label(row, role, value)]


def number_of(row: Row, role: str = "label") -> float:
    """The number. Raises DataError where there is none, or none that is finite in 32 bits."""
    value = row.values[role]
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError
        number = float(value)
    except (ValueError, OverflowError):
        raise DataError(
            row.file, f"the {role} is {_shown(value)}, not a number; correct or remove the row", row.number
        ) from None
    if not abs(number) <= LARGEST:
        raise DataError(row.file, f"the {role} is {_shown(value)}, not a finite number; remove the row", row.number)
    return number


def list_of(row: Row, role: str) -> list[object]:
    """The list. Raises DataError where it is none or empty."""
    value = row.values[role]
    if not isinstance(value, list) or not value:
        raise DataError(
            row.file,
            f"the {role} is {_shown(value)}, not a list; lists come from jsonl, parquet and conll files",
            row.number,
        )
    return value


def _shown(value: object) -> str:
    """A value in a message, cut: it may be an image."""
    shown = repr(value)
    return shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}…"


def _label(row: Row, role: str, value: object) -> str:
    if isinstance(value, float) and not isnan(value) and value.is_integer():
        value = int(value)  # integers beside missing values are stored as floats
    if value is None or value == "" or (isinstance(value, float) and isnan(value)):
        raise DataError(row.file, f"the {role} is empty; remove the row or fill it", row.number)
    if isinstance(value, bool | float) or not isinstance(value, str | int):
        raise DataError(row.file, f"the {role} is {_shown(value)}; a label is text or an integer", row.number)
    name = str(value).strip()
    if not name:
        raise DataError(row.file, f"the {role} is blank; remove the row or fill it", row.number)
    return name
