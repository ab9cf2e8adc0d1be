"""A row's values as a task needs them: a text that is not blank, a label that names a class, a number, a list."""

from __future__ import annotations

import ast
import re
from math import isnan

from launcher.data.rows import Row
from launcher.errors import DataError

LARGEST = 3.4e38
"""Training uses 32 bits, in which larger numbers are infinite."""
SHOWN = 60
"""Characters of a value shown in a message."""
QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
PART = re.compile(rf"\s*({QUOTED}|[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|True|False|true|false)\s*")
"""An item of a list that was written as text by Python, JSON or numpy."""
FLAGS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
TRUTHS = {"true": "True", "false": "False"}
WHOLE = re.compile(r"-?\d+\.0+")
"""An integer written from a float column, as pandas does if a value is missing."""
BRACKETS = {"[": "]", "(": ")", "{": "}"}


def text_of(row: Row, role: str = "text") -> str:
    """The text. Raises DataError if it is missing, blank or not text."""
    value = row.values[role]
    if value is None or (isinstance(value, str) and not value.strip()):
        raise DataError(row.file, f"the {role} is empty; remove the row or fill it", row.number)
    if not isinstance(value, str):
        raise DataError(row.file, f"the {role} is {_shown(value)}, not text; name the right column", row.number)
    return value


def label_of(row: Row, role: str = "label") -> str:
    """The label's name: an integer's digits (also for 1.0), True or False for a boolean.

    Raises DataError if there is no label, or several.
    """
    value = plain(row.values[role])
    listed = value if isinstance(value, list) else list_in(value) if isinstance(value, str) else None
    if listed is not None:
        raise DataError(
            row.file,
            f"the {role} is a list, {str(value)[:40]}, and one label is needed; for several labels per "
            "sample set train.loss.name: binary, for a label per word task: token-classification",
            row.number,
        )
    return _label(row, role, value)


def labels_of(row: Row, role: str = "label") -> list[str]:
    """The names in a list, or in one text with separators; possibly none. Raises DataError."""
    value = plain(row.values[role])
    if isinstance(value, str):
        parts = _listed(row, role, value)
        value = [part for part in value.split(row.separator) if part.strip()] if parts is None else parts
    if isinstance(value, list):
        return [_label(row, role, part) for part in value]
    if value is None or (isinstance(value, float) and not value.is_integer()):
        raise DataError(
            row.file,
            f"the {role} is {_shown(value)}; give several labels as a list, or as a text with "
            f"{row.separator!r} between them, empty for none",
            row.number,
        )
    return [_label(row, role, value)]


def number_of(row: Row, role: str = "label") -> float:
    """The number. Raises DataError if it is missing, or not finite in 32 bits."""
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
    """The list. Raises DataError if it is not a list, or empty."""
    value = plain(row.values[role])
    if not isinstance(value, list) or not value:
        raise DataError(
            row.file,
            f"the {role} is {_shown(value)}, not a list; use a jsonl, parquet or conll file for lists",
            row.number,
        )
    return value


def _shown(value: object) -> str:
    """A value for a message, shortened, since it may be an image."""
    shown = repr(value)
    return shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}…"


def plain(value: object) -> object:
    """Numbers and arrays of numpy and torch as Python values, also within lists."""
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    is_foreign = not isinstance(value, str | bytes) and hasattr(value, "dtype") and hasattr(value, "tolist")
    return value.tolist() if is_foreign else value  # type: ignore[attr-defined]


def list_in(text: str) -> list[object] | None:
    """The list that a text represents (`[0, 1]`, `['a', 'b']`, `[0 1]`); None for other texts."""
    text = text.strip()
    if len(text) < 2 or BRACKETS.get(text[0]) != text[-1]:
        return None
    inside, parts, place = text[1:-1].strip(), list[object](), 0
    while place < len(inside):
        found = PART.match(inside, place)
        if found is None or (parts and inside[place - 1] not in ", \t\r\n"):
            return None
        try:
            parts.append(ast.literal_eval(TRUTHS.get(found.group(1), found.group(1))))
        except (ValueError, SyntaxError):  # 007, or an invalid escape
            return None
        place = found.end()
        if place < len(inside) and inside[place] == ",":
            place += 1
    is_plain = text[0] == "[" or "," in inside or isinstance(parts[0] if parts else None, str)
    return parts if is_plain else None


def flags_of(row: Row, role: str = "label") -> list[int] | None:
    """The labels as a vector, if all are 0 or 1; None otherwise."""
    value = plain(row.values[role])
    if isinstance(value, str):
        listed = list_in(value)
        value = [FLAGS.get(part.strip()) for part in value.split(row.separator) if part.strip()]
        value = value if listed is None else listed
    values = value if isinstance(value, list) else [value]
    flags = [int(part) for part in values if isinstance(part, int | float) and part in (0, 1)]
    return flags if len(flags) == len(values) else None


def _listed(row: Row, role: str, text: str) -> list[object] | None:
    """The list in a text. Raises DataError for a text in brackets that cannot be parsed."""
    found = list_in(text)
    if found is None and text.strip().startswith("[") and text.strip().endswith("]"):
        raise DataError(
            row.file,
            f"the {role} {text.strip()[:40]!r} looks like a list and cannot be parsed; write its names in quotes, "
            f'["a", "b"], or without brackets, with {row.separator!r} between them',
            row.number,
        )
    return found


def _label(row: Row, role: str, value: object) -> str:
    if isinstance(value, float) and not isnan(value) and value.is_integer():
        value = int(value)  # a column with missing values stores integers as floats
    if value is None or value == "" or (isinstance(value, float) and isnan(value)):
        raise DataError(row.file, f"the {role} is empty; remove the row or fill it", row.number)
    if isinstance(value, float) or not isinstance(value, str | int):
        message = f"the {role} is {_shown(value)}; a label must be text, an integer, true or false"
        raise DataError(row.file, message, row.number)
    name = str(value).strip()
    if not name:
        raise DataError(row.file, f"the {role} is blank; remove the row or fill it", row.number)
    return name.partition(".")[0] if WHOLE.fullmatch(name) else name
