"""Rows of csv and tsv files that a stray quote may have merged: they contain a line break, as few other rows do."""

from __future__ import annotations

from dataclasses import dataclass

from launcher.measure.quality.samples import SampleSet

RARE = 0.01
"""Share of samples with line breaks up to which they look like merged rows; above it, texts have several lines."""


@dataclass(frozen=True)
class LineBreaks:
    """The samples of a set that contain a line break, by their numbers from 1."""

    set: str
    numbers: tuple[int, ...]


def rare_line_breaks(data: SampleSet) -> LineBreaks | None:
    """The samples with a line break; None if there are none, or so many that they are normal."""
    return LineBreaks(data.name, data.broken) if 0 < len(data.broken) <= RARE * len(data) else None
