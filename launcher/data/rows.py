"""One row of a data file, and its columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from launcher.errors import DataError

DEEPEST = 100
"""Maximum nesting depth of a value."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row as read: its location, for messages, and the requested values by role.

    file: the file that it was read from
    number: 1 for the first sample of the file after any header
    values: role (`text`, `label`) to the value in the file
    separator: text between several labels in one value
    """

    file: str
    number: int
    values: Mapping[str, object]
    separator: str = ","


def resolve_columns(place: Path | str, present: Sequence[str], columns: Mapping[str, str]) -> dict[str, str]:
    """The requested columns by role. Raises DataError if one is missing or duplicated."""
    for name in columns.values():
        if name not in present:
            raise missing_column(place, name, present)
        if list(present).count(name) > 1:
            raise DataError(place, f"the file has {list(present).count(name)} columns {name!r}; rename all but one")
    return dict(columns)


def check_values(place: Path | str, number: int, values: Mapping[str, object]) -> None:
    """Raises DataError for a lone surrogate, which no file can encode, and for values nested too deeply."""
    for role, value in values.items():
        if isinstance(value, str) and value.isascii():
            continue
        for text, depth in _texts_within(value):
            if depth > DEEPEST:
                raise DataError(
                    place, f"the {role} is nested more than {DEEPEST} levels deep; correct or remove the row", number
                )
            if (half := _half_character(text)) is not None:
                fault = f"the {role} contains half a character (the lone surrogate \\u{ord(half):04x}) in {text[:40]!r}"
                raise DataError(place, f"{fault}; correct the text or remove the row", number)


def _texts_within(value: object) -> Iterator[tuple[str, int]]:
    """The texts of a value and their nesting depths; an empty text for what is too deep."""
    remaining = [(value, 0)]
    while remaining:
        part, depth = remaining.pop()
        if isinstance(part, str):
            yield part, depth
        elif isinstance(part, list | Mapping):
            if depth > DEEPEST:
                yield "", depth
            within = part if isinstance(part, list) else [*part, *part.values()]
            remaining += [(one, depth + 1) for one in within if isinstance(one, str | list | Mapping)]


def _half_character(text: str) -> str | None:
    """The first lone surrogate, if any."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return text[error.start]
    return None


NAMING = "name the column: `text:`, `label:` and the like in a job, --text, --label and --column of a command"
SEPARATORS = (";", "\t", "|")


def missing_column(place: Path | str, name: str, present: Sequence[str], row: int | None = None) -> DataError:
    """The error for a missing column."""
    nearest = get_close_matches(name, present, n=1, cutoff=0.5)
    guess = f"; did you mean {nearest[0]!r}?" if nearest else f"; {NAMING}"
    shown = ", ".join(repr(column) for column in present)
    return DataError(
        place, f"there is no column {name!r} among {shown}{_other_shape(name, present, bool(nearest)) or guess}", row
    )


def _other_shape(name: str, present: Sequence[str], is_misspelt: bool) -> str:
    """Advice for a file whose columns are those of another kind of data; empty for other files."""
    separator = next((one for one in SEPARATORS if len(present) == 1 and one in present[0]), None)
    if separator is not None:
        return (
            f"; the file seems to be separated by {separator!r}; adaptrun reads commas in .csv and tabs "
            "in .tsv, so convert it"
        )
    if {"chosen", "rejected"} <= set(present):
        return (
            "; these are preferences, and no task learns from pairs of a chosen and a rejected "
            "answer; task: causal-lm learns only the chosen answers: prompt: prompt, response: chosen "
            "(for chats: messages: chosen)"
        )
    if name in ("label", "labels") and len(present) > 2 and not is_misspelt:
        return (
            f"; {NAMING}; if each label has a column of its own with 0 and 1, join them into one "
            "column of lists, such as [0, 1, 0] or the labels' names, and set train.loss.name: binary"
        )
    return ""
