"""A row's values as a task wants them: a text that says something, a label that names a class."""

from __future__ import annotations

from math import isnan

from launcher.data.rows import Row
from launcher.errors import DataError


def text_of(row: Row, role: str = "text") -> str:
    """The text. Raises DataError where it is missing, blank or no text."""
    value = row.values[role]
    if value is None or (isinstance(value, str) and not value.strip()):
        raise DataError(row.file, f"the {role} is empty; remove the row or fill it", row.number)
    if not isinstance(value, str):
        raise DataError(row.file, f"the {role} is {value!r}, not text; name the right column", row.number)
    return value


def label_of(row: Row, role: str = "label") -> str:
    """The label's name; integers become their digits. Raises DataError where there is none."""
    value = row.values[role]
    if isinstance(value, float) and not isnan(value) and value.is_integer():
        value = int(value)  # integers beside missing values are stored as floats
    if value is None or value == "" or (isinstance(value, float) and isnan(value)):
        raise DataError(row.file, f"the {role} is empty; remove the row or fill it", row.number)
    if isinstance(value, bool | float) or not isinstance(value, str | int):
        raise DataError(row.file, f"the {role} is {value!r}; a label is text or an integer", row.number)
    name = str(value).strip()
    if not name:
        raise DataError(row.file, f"the {role} is blank; remove the row or fill it", row.number)
    return name
