"""What a tracker is to us: it is opened once a start, takes figures, and is given how the attempt ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from launcher.job.schema import Tracker as Settings
from launcher.run.flatten import Value

Status = Literal["done", "stopped", "failed", "interrupted"]
"""interrupted: whoever started the ranks is gone without a word."""


@dataclass(frozen=True)
class Point:
    """Figures of one step; `time` in seconds since the epoch."""

    step: int
    time: float
    values: dict[str, float]


@dataclass(frozen=True)
class TrackedRun:
    """One run as a tracker gets to know it.

    name: of its folder
    path: its folder
    parameters: the job's values under dotted names, without secrets and without `track`
    job: the same as YAML
    last_step: the last training step that the tracker has, None where it has none
    """

    name: str
    path: Path
    settings: Settings
    parameters: Mapping[str, Value]
    job: str
    last_step: int | None


class Tracker(Protocol):
    """Takes the figures of one run. What it raises ends it, and nothing else."""

    def open(self, run: TrackedRun, known: str | None) -> str:
        """Begin, or resume the tracker's run of the id `known`; returns the id by which to resume another time."""

    def log(self, points: Sequence[Point]) -> None:
        """Take figures that were not there before; once this returns they count as delivered."""

    def conclude(self, status: Status, summary: Mapping[str, Value]) -> None:
        """Say how the start ended, and, of a finished run, what it came to."""
