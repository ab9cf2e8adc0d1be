"""Duplicate samples: within a set, across sets, and with contradicting labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from launcher.data.fingerprints import repeated
from launcher.measure.quality.samples import Kind, Label, SampleSet

Place = tuple[str, int]
"""A set's name, and the sample's number in it, from 1."""


@dataclass(frozen=True)
class Within:
    """Samples of a set that repeat an earlier one.

    pairs: numbers from 1; the sample, then its first occurrence
    """

    set: str
    pairs: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Across:
    """Samples of one set that are also in another.

    pairs: numbers from 1; the sample of `set`, then its first occurrence in `other`
    leaks: whether `other` is trained on and `set` used for evaluation
    """

    set: str
    other: str
    leaks: bool
    pairs: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Contradiction:
    """One sample that occurs several times with different labels.

    places: its occurrences and their labels
    """

    text: str
    places: tuple[tuple[str, int, Label], ...]


def within(data: SampleSet) -> Within:
    """The samples that repeat an earlier one of the same set; blank samples are left out."""
    asked = np.flatnonzero(data.says_something)
    _, first, group = np.unique(data.fingerprints[asked], return_index=True, return_inverse=True)
    before = first[group]
    again = np.flatnonzero(before != np.arange(len(asked)))
    return Within(data.name, tuple((int(asked[i]) + 1, int(asked[before[i]]) + 1) for i in again))


def across(sets: Sequence[SampleSet], *, learns_from_target: bool) -> list[Across]:
    """Samples of each set that are also in an earlier set; for an evaluation set, in each set that is trained on."""
    learned: set[Kind] = {"train", "target"} if learns_from_target else {"train"}
    found = []
    for other, data in combinations(sets, 2):
        if other.kind == "validation" and data.kind in learned:
            other, data = data, other
        pairs = repeated(other.fingerprints, data.fingerprints)
        says = data.says_something
        kept = tuple((int(here) + 1, int(there) + 1) for here, there in pairs if says[here])
        found.append(Across(data.name, other.name, data.kind == "validation" and other.kind in learned, kept))
    return found


def contradictions(sets: Sequence[SampleSet]) -> list[Contradiction]:
    """Samples that occur more than once, in any sets, with different labels."""
    seen: dict[int, list[tuple[SampleSet, int, Label]]] = defaultdict(list)
    for data in sets:
        says = data.says_something
        for number, label in enumerate(data.labels or ()):
            if label is not None and says[number]:
                seen[int(data.fingerprints[number])].append((data, number, label))
    return [
        Contradiction(
            places[0][0].texts[places[0][1]],
            tuple((data.name, number + 1, label) for data, number, label in places),
        )
        for places in seen.values()
        if len({label for _, _, label in places}) > 1
    ]
