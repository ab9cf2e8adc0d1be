"""Rows of csv and tsv files that a quote may have merged: they hold a line break, as hardly any other row does."""

from __future__ import annotations

from dataclasses import dataclass

from launcher.measure.quality.samples import SampleSet

RARE = 0.01
"""Share of samples up to which line breaks look like merged rows; where more have them, the texts have lines."""


@dataclass(frozen=True)
class LineBreaks:
    """The samples of a set that hold a line break, by their numbers from 1."""

    set: str
    numbers: tuple[int, ...]


def rare_line_breaks(data: SampleSet) -> LineBreaks | None:
    """None where no sample holds a line break, or so many do that it is nothing strange."""
    return LineBreaks(data.name, data.broken) if 0 < len(data.broken) <= RARE * len(data) else None
