"""Several labels of a sample as a vector of 0 and 1, a place for each label, as `transformers` takes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

from launcher.data.rows import Row
from launcher.data.values import flags_of
from launcher.errors import DataError

Format = Literal["auto", "names", "vector"]
ROLE = "label"


def vector_places(rows: Iterable[Row], form: Format = "auto") -> int | None:
    """How many places the vectors of 0 and 1 have that some rows hold; None where the rows name their labels.

    Lists of 0 and 1 alone are vectors where all are of one length, since a list of names has each once and is of any.
    Raises DataError where both could be meant, and for a vector of another length.
    """
    if form == "names":
        return None
    first: Row | None = None
    sure, odd = form == "vector", None
    places = 0
    for row in rows:
        flags = flags_of(row)
        if flags is None:
            if sure:
                raise _no_vector(row, places)
            return None
        if first is None:
            first, places = row, len(flags)
        sure = sure or len(flags) > len(set(flags))
        odd = row if odd is None and len(flags) != places else odd
        if odd is not None and sure:
            raise _no_vector(odd, places)
    if first is None or places == 0 or odd is not None:
        return None
    if places == 1 and not sure and not _is_a_float(first):
        raise DataError(
            first.file,
            "each label is 0 or 1: one label that is there or not, or two labels called 0 and 1? Say which in the "
            "data set: label_format: vector, or label_format: names",
        )
    return places


def with_names(rows: Iterable[Row], labels: Sequence[str]) -> Iterator[Row]:
    """The rows with lists of names in place of their vectors. Raises DataError for a vector of another length."""
    for row in rows:
        flags = flags_of(row)
        if flags is None or len(flags) != len(labels):
            raise _no_vector(row, len(labels))
        named = [label for label, flag in zip(labels, flags, strict=True) if flag]
        yield replace(row, values={**row.values, ROLE: named})


def place_names(places: int, known: Sequence[str]) -> tuple[str, ...]:
    """Names of the places: those that the pretrained model's config has, where they are as many, else 0 to n-1.

    known: empty, or what the config says that somebody named
    """
    return tuple(known) if len(known) == places else tuple(map(str, range(places)))


def _is_a_float(row: Row) -> bool:
    value = row.values[ROLE]
    return isinstance(value, list) and any(isinstance(part, float) for part in value)


def _no_vector(row: Row, places: int) -> DataError:
    value = str(row.values[ROLE])
    shown = value if len(value) < 60 else f"{value[:57]}…"
    return DataError(
        row.file,
        f"the label {shown} is no vector of {places} numbers 0 and 1, as others are; correct it, or say what the "
        "labels are in the data set: label_format: names or vector",
        row.number,
    )
