"""The labels of a data set with some samples of each, to show how labels were read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from launcher.data.label_vectors import common_places, format_of, place_names, places_of, with_names
from launcher.data.labels import folded, listed, output_names, unless_unnamed
from launcher.data.rows import Row
from launcher.data.sources import is_local, read_rows
from launcher.data.values import label_of, labels_of, plain
from launcher.errors import DataError
from launcher.job.pretrained import find_pretrained, label_format_of, read_config
from launcher.job.schema import Job
from launcher.job.sections.data import LabelFormat, Source
from launcher.job.sections.tasks import Family

SAMPLES = 3
"""Samples shown per label."""
MOST_LABELS = 20
"""Labels shown per set."""
LONGEST = 60
SHOWN = ("text", "prompt", "messages", "words", "image", "audio")


@dataclass
class LabelSet:
    """The labels of one data set.

    counts: samples (or words) of each label, the most frequent first
    samples: the first few of each
    places: names of the positions of 0/1 vectors; empty if the rows name their labels
    rows: number of rows that were read
    whole: whether these are all rows
    """

    set: str
    counts: dict[str, int]
    samples: dict[str, list[str]]
    places: tuple[str, ...]
    rows: int
    whole: bool

    def lines(self) -> Iterator[str]:
        """One line for the set, and one for each of its most frequent labels."""
        rows = f"{self.rows:,} rows" if self.whole else f"the first {self.rows:,} rows"
        yield f"labels of {self.set}: {len(self.counts):,} in {rows}{', as vectors of 0 and 1' * bool(self.places)}"
        width = min(24, max((len(name) for name in list(self.counts)[:MOST_LABELS]), default=0))
        for name in list(self.counts)[:MOST_LABELS]:
            yield f"  {name:{width}} {self.counts[name]:>7,}  {' | '.join(self.samples[name])}"
        if len(self.counts) > MOST_LABELS:
            yield f"  and {len(self.counts) - MOST_LABELS:,} more labels"
        if alike := self.alike:
            yield f"  these differ only in case or white space and are different labels: {listed(alike)}"

    @property
    def alike(self) -> list[str]:
        """Labels that differ from another only in case and white space."""
        forms = Counter(folded(name) for name in self.counts)
        return sorted(name for name in self.counts if forms[folded(name)] > 1)


def read_label_set(
    name: str, source: Source, family: Family, outputs: Sequence[str], *, at_most: int | None, strictly: bool
) -> LabelSet:
    """The labels as training reads them.

    outputs: names of the positions of label vectors, if there are as many
    at_most: rows that are read
    strictly: raise DataError for a label that training refuses; else such labels are skipped
    """
    columns = family.columns(source)
    several = family.takes_several_labels
    places = places_of(source, at_most) if several else None
    names = () if places is None else place_names(places, outputs)
    rows = read_rows(source, columns)
    rows = rows if places is None else with_names(rows, names)
    read, more = 0, False
    counts: dict[str, int] = {}
    samples: dict[str, list[str]] = {}
    for row in rows:
        if at_most is not None and read == at_most:
            more = True
            break
        read += 1
        with suppress(*(() if strictly else (DataError,))):
            for label, sample in _labelled(row, several):
                counts[label] = counts.get(label, 0) + 1
                if len(samples.setdefault(label, [])) < SAMPLES:
                    samples[label].append(sample)
    ordered = dict(sorted(counts.items(), key=lambda item: -item[1]))
    return LabelSet(name, ordered, samples, names, read, not more)


def named_outputs(job: Job) -> tuple[str, ...]:
    """The names of the outputs in the pretrained model's config; empty if they have none or the config is not local."""
    return unless_unnamed(output_names((read_config(find_pretrained(job.model)) or {}).get("id2label")))


def label_format(job: Job, family: Family, at_most: int | None = None) -> LabelFormat:
    """The label format of all sets: that of the training sets, else that of the model's own training.

    at_most: rows that are read of each local training set
    Raises DataError if the training sets have different formats.
    """
    if not family.takes_several_labels:
        return "auto"
    here = {
        name: source for name, source in job.labelled_sets.items() if all(is_local(place) for place in source.files)
    }
    return format_of(common_places(here, at_most)) if here else label_format_of(find_pretrained(job.model))


def rows_with_names(source: Source, columns: Mapping[str, str], outputs: Sequence[str]) -> Iterator[Row]:
    """Rows with label names in place of 0/1 vectors; other labels are unchanged.

    outputs: names of the positions of label vectors, if there are as many
    """
    places = places_of(source)
    rows = read_rows(source, columns)
    return rows if places is None else with_names(rows, place_names(places, outputs))


def _labelled(row: Row, several: bool) -> Iterator[tuple[str, str]]:
    """Each label of a row, and the text that it belongs to."""
    words = plain(row.values.get("words"))
    if isinstance(words, list):
        for label, word in zip(labels_of(row), words, strict=False):
            yield label, _short(str(word))
        return
    sample = next((_short(_read(row.values[role])) for role in SHOWN if role in row.values), "")
    for label in labels_of(row) if several else [label_of(row)]:
        yield label, sample


def _read(value: object) -> str:
    """A text unchanged, a file by its name."""
    if isinstance(value, str):
        return value if len(value) > 4096 or "/" not in value or " " in value else Path(value).name
    return "" if value is None or isinstance(value, bytes) else str(value)


def _short(text: str) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= LONGEST else f"{one_line[: LONGEST - 1]}…"
