"""Several labels of a sample as a multi-hot vector of 0 and 1, one position per label, as in `transformers`."""

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
    """The length of the rows' label vectors; None if the rows name their labels.

    Lists of only 0 and 1 are vectors if all have the same length, since a list of names has each name once and any
    length. Raises DataError if both readings are possible, and for a vector of another length.
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
            "each label is 0 or 1, which can mean a vector of one label or two labels named 0 and 1; set "
            "label_format: vector or label_format: names in the data set",
        )
    return places


def places_of(source: Source, at_most: int | None = None) -> int | None:
    """The length of a source's label vectors; None if it names its labels, judged by at most `at_most` rows."""
    rows = read_rows(source, {ROLE: source.column(ROLE) or ROLE})
    return vector_places(islice(rows, at_most), source.label_format)


def common_places(sources: Mapping[str, Source], at_most: int | None = None) -> int | None:
    """The same for the training sets, whose format applies to all other sets.

    Raises DataError if they have different formats.
    """
    places = {name: places_of(source, at_most) for name, source in sources.items()}
    if len(set(places.values())) > 1:
        formats = ", ".join(f"{name} {f'{size} places' if size else 'names'}" for name, size in places.items())
        raise DataError(
            "data.train",
            f"the sets have labels of different formats: {formats}; make them alike, or set label_format: "
            "names or vector in each",
        )
    return next(iter(places.values()), None)


def format_of(places: int | None) -> LabelFormat:
    """The label format for vectors of this length; None for names."""
    return "names" if places is None else "vector"


def form_of(source: Source) -> LabelFormat:
    """The label format of a source: as set, else judged by all of its rows."""
    return format_of(places_of(source)) if source.label_format == "auto" else source.label_format


def read_as(source: Source, form: LabelFormat) -> Source:
    """The source with the given label format, unless it sets its own."""
    return source if source.label_format != "auto" else source.model_copy(update={"label_format": form})


def with_names(rows: Iterable[Row], labels: Sequence[str]) -> Iterator[Row]:
    """The rows with lists of names in place of vectors. Raises DataError for a vector of another length."""
    for row in rows:
        flags = flags_of(row)
        if flags is None or len(flags) != len(labels):
            raise _no_vector(row, len(labels))
        named = [label for label, flag in zip(labels, flags, strict=True) if flag]
        yield replace(row, values={**row.values, ROLE: named})


def place_names(places: int, known: Sequence[str]) -> tuple[str, ...]:
    """Names of the positions: those in the pretrained model's config if there are as many, else 0 to n-1.

    known: the names in the config; empty if it has none
    """
    return tuple(known) if len(known) == places else tuple(map(str, range(places)))


def hint_at_vectors(labels: Iterable[str]) -> str:
    """Advice if unknown labels look like values of 0/1 vectors; empty for other labels."""
    return "; if the rows hold vectors: label_format: vector (for evaluate: --label-format vector)" * (
        {*labels} <= {"0", "1"}
    )


def _is_a_float(row: Row) -> bool:
    value = row.values[ROLE]
    return isinstance(value, list) and any(isinstance(part, float) for part in value)


def _no_vector(row: Row, places: int | None) -> DataError:
    """places: length of the vectors before it; None for the first row"""
    value = str(row.values[ROLE])
    shown = value if len(value) < 60 else f"{value[:57]}…"
    return DataError(
        row.file,
        f"the label {shown} is no vector of {'' if places is None else f'{places} '}numbers 0 and 1, "
        "unlike the labels of other rows or of the training data; correct it, or set label_format: "
        "names or vector in the data set (for evaluate: --label-format)",
        row.number,
    )
