"""Several labels of a sample as a vector of 0 and 1, a place for each label, as `transformers` takes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from launcher.data.rows import Row
from launcher.data.sources import read_rows
from launcher.data.values import flags_of
from launcher.errors import DataError
from launcher.job.sections.data import LabelFormat, Source

ROLE = "label"


def vector_places(rows: Iterable[Row], form: LabelFormat = "auto") -> int | None:
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
                raise _no_vector(row, places or None)
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


def places_of(source: Source, at_most: int | None = None) -> int | None:
    """How many places the vectors of a source have; None where it names its labels, as far as `at_most` rows show."""
    rows = read_rows(source, {ROLE: source.column(ROLE) or ROLE})
    return vector_places(islice(rows, at_most), source.label_format)


def common_places(sources: Mapping[str, Source], at_most: int | None = None) -> int | None:
    """The same of the training sets, which decide how the labels of all other sets are read.

    Raises DataError where they are unlike.
    """
    places = {name: places_of(source, at_most) for name, source in sources.items()}
    if len(set(places.values())) > 1:
        told = ", ".join(f"{name} {f'{size} places' if size else 'names'}" for name, size in places.items())
        raise DataError(
            "data.train",
            f"the sets give their labels in several ways: {told}; make them alike, or say of each what its labels are: "
            "label_format: names or vector",
        )
    return next(iter(places.values()), None)


def format_of(places: int | None) -> LabelFormat:
    """What a source with so many places has."""
    return "names" if places is None else "vector"


def form_of(source: Source) -> LabelFormat:
    """What a source has: as it says, else as all of its rows show."""
    return format_of(places_of(source)) if source.label_format == "auto" else source.label_format


def read_as(source: Source, form: LabelFormat) -> Source:
    """The source with its labels read in the form that was decided, unless it says itself what they are."""
    return source if source.label_format != "auto" else source.model_copy(update={"label_format": form})


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


def hint_at_vectors(labels: Iterable[str]) -> str:
    """What to try where labels are unknown that vectors of 0 and 1 seem to have; nothing for others."""
    return "; if the rows hold vectors: label_format: vector (of evaluate: --label-format vector)" * (
        {*labels} <= {"0", "1"}
    )


def _is_a_float(row: Row) -> bool:
    value = row.values[ROLE]
    return isinstance(value, list) and any(isinstance(part, float) for part in value)


def _no_vector(row: Row, places: int | None) -> DataError:
    """places: of the vectors before it; None where it is the first row"""
    value = str(row.values[ROLE])
    shown = value if len(value) < 60 else f"{value[:57]}…"
    return DataError(
        row.file,
        f"the label {shown} is no vector of {'' if places is None else f'{places} '}numbers 0 and 1, as those of other "
        "rows or of the training data are; correct it, or say what the labels are in the data set: label_format: names "
        "or vector (of evaluate: --label-format)",
        row.number,
    )
