"""The samples of a job as stored in their files, including invalid ones, which are reported rather than refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from math import isnan
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from launcher.data.fingerprints import Fingerprints, fingerprint
from launcher.data.label_vectors import read_as
from launcher.data.rows import Row
from launcher.data.sources import DELIMITED, read_rows
from launcher.data.values import label_of, labels_of, plain
from launcher.errors import DataError
from launcher.job.schema import Job
from launcher.job.sections.data import LabelFormat, Source
from launcher.job.sections.tasks import Family
from launcher.measure.quality.label_sets import named_outputs, rows_with_names

Kind = Literal["train", "validation", "target"]
Label = str | tuple[str, ...]
"""One name, or several: those of a sample or of its words."""
TEXTS = ("text", "text_pair", "prompt", "response", "messages", "words")
"""Roles that are read as texts."""


@dataclass(frozen=True)
class SampleSet:
    """One data set of a job.

    parts: the texts of each sample by role, with a chat's turns or a sentence's words joined; empty without texts
    labels: one per sample, None for a sample without a label; None as a whole if the task has no labels
    fingerprints: of the inputs of each sample
    broken: numbers of the samples of csv and tsv files with a line break in a text or label
    """

    name: str
    kind: Kind
    parts: tuple[Mapping[str, str], ...]
    labels: tuple[Label | None, ...] | None
    fingerprints: Fingerprints
    broken: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.parts)

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """All texts of each sample, joined."""
        return tuple(" ".join(part.values()) for part in self.parts)

    @property
    def has_texts(self) -> bool:
        """Whether the samples are texts, unlike images and sounds."""
        return any(self.parts)

    @property
    def says_something(self) -> NDArray[np.bool_]:
        """[samples] whether there is more than white space; true for samples that are not texts."""
        return np.array([bool(text.strip()) for text in self.texts]) | (not self.has_texts)


def read_sets(job: Job, family: Family, form: LabelFormat) -> list[SampleSet]:
    """The training sets as one, the validation sets, the target. Raises DataError for files that cannot be read.

    form: label format of sets that do not set `label_format`
    """
    outputs = named_outputs(job)
    train = [read_as(source, form) for source in job.labelled_sets.values()]
    sets = [_read("train", "train", train, family, outputs)]
    for name, source in job.data.validation.items():
        sets.append(_read(name, "validation", [read_as(source, form)], family, outputs))
    if job.data.target is not None:
        sets.append(_read("target", "target", [job.data.target], family, outputs))
    return sets


def _rows(source: Source, family: Family, outputs: Sequence[str], *, labelled: bool) -> Iterator[Row]:
    """The rows, with label names in place of 0/1 vectors."""
    columns = family.columns(source, labelled=labelled)
    if labelled and family.takes_several_labels:
        return rows_with_names(source, columns, outputs)
    return read_rows(source, columns)


def _read(name: str, kind: Kind, sources: Sequence[Source], family: Family, outputs: Sequence[str]) -> SampleSet:
    parts: list[Mapping[str, str]] = []
    labels: list[Label | None] = []
    fingerprints: list[int] = []
    broken: list[int] = []
    targets = family.targets or ()
    rows = (row for one in sources for row in _rows(one, family, outputs, labelled=kind != "target"))
    for row in rows:
        parts.append({role: _text(row.values[role]) for role in TEXTS if role in row.values})
        labels.append(_label(row, family))
        fingerprints.append(fingerprint(row, targets))
        if _has_line_break(row):
            broken.append(len(parts))
    labelled = kind != "target" and "label" in targets
    return SampleSet(
        name,
        kind,
        tuple(parts),
        tuple(labels) if labelled else None,
        np.array(fingerprints, dtype=np.uint64),
        tuple(broken),
    )


def _has_line_break(row: Row) -> bool:
    """Whether a field contains a line break, which is possible only within quotes: a stray quote merges rows."""
    return row.file.lower().endswith(DELIMITED) and any(
        isinstance(value, str) and ("\n" in value or "\r" in value) for value in row.values.values()
    )


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return " ".join(_turns(value))
    return "" if value is None else str(value)


def _turns(values: list[object]) -> Iterator[str]:
    """The words of a sentence, or the contents of a chat's messages."""
    for value in values:
        yield str(value.get("content", "")) if isinstance(value, dict) else str(value)


def _label(row: Row, family: Family) -> Label | None:
    """The label as training reads it; None if training would refuse it."""
    value = plain(row.values.get("label"))
    if family.has_classes and value is not None:
        with suppress(DataError):
            several = family.takes_several_labels or isinstance(value, list)
            return tuple(labels_of(row)) if several else label_of(row)
        return None
    if isinstance(value, list):
        return tuple(str(part) for part in value)
    if value is None or (isinstance(value, float) and isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() or None
