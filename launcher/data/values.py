"""A row's values as a task wants them: a text that says something, a label that names a class, a number, a list."""

from __future__ import annotations

import ast
import re
from math import isnan

from launcher.data.rows import Row
from launcher.errors import DataError

LARGEST = 3.4e38
"""Numbers are learned in 32 bits, where larger ones are infinite."""
SHOWN = 60
"""Characters of a value that a message shows."""
QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
PART = re.compile(rf"\s*({QUOTED}|[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|True|False|true|false)\s*")
"""What stands in a list that was written as text: as Python, JSON and numpy write it."""
FLAGS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
TRUTHS = {"true": "True", "false": "False"}
WHOLE = re.compile(r"-?\d+\.0+")
"""An integer that was written from a column of floats, as pandas does where a value is missing."""
BRACKETS = {"[": "]", "(": ")", "{": "}"}


def text_of(row: Row, role: str = "text") -> str:
    """The text. Raises DataError where it is missing, blank or no text."""
    value = row.values[role]
    if value is None or (isinstance(value, str) and not value.strip()):
        raise DataError(row.file, f"the {role} is empty; remove the row or fill it", row.number)
    if not isinstance(value, str):
        raise DataError(row.file, f"the {role} is {_shown(value)}, not text; name the right column", row.number)
    return value


def label_of(row: Row, role: str = "label") -> str:
    """The label's name: of an integer (also as 1.0) its digits, True or False of a truth value.

    Raises DataError where there is none, or several.
    """
    value = plain(row.values[role])
    listed = value if isinstance(value, list) else list_in(value) if isinstance(value, str) else None
    if listed is not None:
        raise DataError(
            row.file,
            f"the {role} is a list, {str(value)[:40]}, where one label is needed; several labels a sample are learned "
            "with train.loss.name: binary, a label for each word with task: token-classification",
            row.number,
        )
    return _label(row, role, value)


def labels_of(row: Row, role: str = "label") -> list[str]:
    """The names in a list, or in one text with separators; there may be none. Raises DataError."""
    value = plain(row.values[role])
    if isinstance(value, str):
        parts = _listed(row, role, value)
        value = [part for part in value.split(row.separator) if part.strip()] if parts is None else parts
    if isinstance(value, list):
        return [_label(row, role, part) for part in value]
    if value is None or (isinstance(value, float) and not value.is_integer()):
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
    value = plain(row.values[role])
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


def plain(value: object) -> object:
    """Numbers and arrays of numpy and torch as Python's own, within lists too."""
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    is_foreign = not isinstance(value, str | bytes) and hasattr(value, "dtype") and hasattr(value, "tolist")
    return value.tolist() if is_foreign else value  # type: ignore[attr-defined]


def list_in(text: str) -> list[object] | None:
    """The list that a text was written from (`[0, 1]`, `['a', 'b']`, `[0 1]`); None for a text that is none."""
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
        except (ValueError, SyntaxError):  # 007, or an escape that is none
            return None
        place = found.end()
        if place < len(inside) and inside[place] == ",":
            place += 1
    is_plain = text[0] == "[" or "," in inside or isinstance(parts[0] if parts else None, str)
    return parts if is_plain else None


def flags_of(row: Row, role: str = "label") -> list[int] | None:
    """What labels alone are made of 0 and 1, as places of a vector would be; None where anything else is there."""
    value = plain(row.values[role])
    if isinstance(value, str):
        listed = list_in(value)
        value = [FLAGS.get(part.strip()) for part in value.split(row.separator) if part.strip()]
        value = value if listed is None else listed
    values = value if isinstance(value, list) else [value]
    flags = [int(part) for part in values if isinstance(part, int | float) and part in (0, 1)]
    return flags if len(flags) == len(values) else None


def _listed(row: Row, role: str, text: str) -> list[object] | None:
    """Raises DataError for a text in the brackets of a list that cannot be read as one."""
    found = list_in(text)
    if found is None and text.strip().startswith("[") and text.strip().endswith("]"):
        raise DataError(
            row.file,
            f"the {role} {text.strip()[:40]!r} looks like a list and cannot be read as one; write its names in quotes, "
            f'["a", "b"], or without brackets, with {row.separator!r} between them',
            row.number,
        )
    return found


def _label(row: Row, role: str, value: object) -> str:
    if isinstance(value, float) and not isnan(value) and value.is_integer():
        value = int(value)  # integers beside missing values are stored as floats
    if value is None or value == "" or (isinstance(value, float) and isnan(value)):
        raise DataError(row.file, f"the {role} is empty; remove the row or fill it", row.number)
    if isinstance(value, float) or not isinstance(value, str | int):
        message = f"the {role} is {_shown(value)}; a label is text, an integer, true or false"
        raise DataError(row.file, message, row.number)
    name = str(value).strip()
    if not name:
        raise DataError(row.file, f"the {role} is blank; remove the row or fill it", row.number)
    return name.partition(".")[0] if WHOLE.fullmatch(name) else name
