"""Several prepared sets concatenated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from launcher.data.prepared import Prepared

Indices = NDArray[np.int64]


class Pool:
    """Random access to the samples of all sets by one index."""

    def __init__(self, sets: Mapping[str, Prepared]) -> None:
        self.sets = dict(sets)
        self.sizes = tuple(len(prepared) for prepared in self.sets.values())
        self._starts = np.cumsum([0, *self.sizes])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @cached_property
    def lengths(self) -> NDArray[np.int32]:
        """Tokens of each sample, int32 [samples]."""
        return np.concatenate([prepared.lengths for prepared in self.sets.values()])

    def start(self, name: str) -> int:
        """Index of a set's first sample."""
        return int(self._starts[list(self.sets).index(name)])

    def found(self, places: Sequence[int] | Indices) -> tuple[Indices, Indices]:
        """For each index, the number of its set and the sample's index in that set."""
        which = np.searchsorted(self._starts, places, side="right") - 1
        return which.astype(np.int64), np.asarray(places, dtype=np.int64) - self._starts[which]

    def __getitem__(self, places: Sequence[int] | Indices) -> list[dict[str, Any]]:
        """The samples at the indices, in their order."""
        sets = list(self.sets.values())
        return [sets[which][[row]][0] for which, row in zip(*self.found(places), strict=True)]

    @property
    def name(self) -> str:
        """A name that depends on the content of all sets and their order."""
        return "+".join(prepared.folder.name for prepared in self.sets.values())

    @property
    def labels(self) -> tuple[str, ...]:
        """The label set, which all sets share."""
        return next((prepared.facts.labels for prepared in self.sets.values()), ())

    @property
    def counts(self) -> tuple[int, ...]:
        """Samples of each label, in all sets."""
        return tuple(sum(column) for column in zip(*(p.facts.counts for p in self.sets.values()), strict=False))
