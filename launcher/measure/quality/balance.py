"""The distribution of labels within a set, and its shift between sets."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import sqrt

from launcher.measure.quality.samples import SampleSet

FEW = 8
"""A class with fewer training samples is hardly learned."""
UNEVEN = 10.0
"""Ratio of the largest class to the smallest from which imbalance is reported."""


@dataclass(frozen=True)
class Balance:
    """The labels of one set.

    counts: samples (or words) of each label, the most frequent first
    unlabelled: numbers, from 1, of samples without a label
    unknown: labels that do not occur in training
    """

    set: str
    counts: dict[str, int]
    unlabelled: tuple[int, ...]
    unknown: tuple[str, ...]

    @property
    def total(self) -> int:
        """Labels in all."""
        return sum(self.counts.values())

    @property
    def unevenness(self) -> float:
        """The largest class over the smallest."""
        return max(self.counts.values()) / min(self.counts.values()) if self.counts else 1.0


@dataclass(frozen=True)
class ClassMove:
    """The change of a class's share from one set to another.

    z: z-score of the difference of the shares; beyond ±2 it is significant
    """

    label: str
    share: float
    other_share: float
    z: float


def balance(data: SampleSet, train: SampleSet) -> Balance | None:
    """Counts of the labels; None if there are none."""
    if data.labels is None:
        return None
    counts = _counts(data)
    unknown = sorted(set(counts) - set(_counts(train))) if data is not train else []
    unlabelled = tuple(number for number, label in enumerate(data.labels, start=1) if label is None)
    return Balance(data.name, dict(counts.most_common()), unlabelled, tuple(unknown))


def class_moves(one: Balance, other: Balance) -> list[ClassMove]:
    """The classes sorted by how much their share differs between two sets, the largest shift first."""
    moves = []
    for label in {*one.counts, *other.counts}:
        share, other_share = (found.counts.get(label, 0) / max(1, found.total) for found in (one, other))
        both = (one.counts.get(label, 0) + other.counts.get(label, 0)) / max(1, one.total + other.total)
        spread = sqrt(both * (1 - both) * (1 / max(1, one.total) + 1 / max(1, other.total)))
        z = (other_share - share) / spread if spread else 0.0
        moves.append(ClassMove(label, share, other_share, z))
    return sorted(moves, key=lambda move: (-abs(move.z), move.label))


def _counts(data: SampleSet) -> Counter[str]:
    counts: Counter[str] = Counter()
    for label in data.labels or ():
        counts.update(() if label is None else (label,) if isinstance(label, str) else label)
    return counts
