"""The sample order over several sets: like `SampleOrder`, a function of the seed and the step alone.

An epoch has as many draws as all sets have samples. The number of draws from each set is fixed by its share. A
permutation of the epoch's draws decides which set each draw is from. The sample of a draw depends on how many draws
from its set came before. So every set is passed over evenly, repeatedly if its share is larger than its size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from launcher.worker.data.order import Indices, permuted


class MixedOrder:
    """The samples of several sets in each step, as indices in their pool.

    sizes: samples of each set
    shares: fraction of the draws from each set; they add up to one
    draws: per epoch
    """

    def __init__(self, sizes: Sequence[int], shares: Sequence[float], draws: int, global_batch: int, seed: int) -> None:
        self.sizes, self.draws, self.global_batch, self.seed = tuple(sizes), draws, global_batch, seed
        self.steps_per_epoch = -(-draws // global_batch)
        self._starts = np.cumsum([0, *sizes])
        self.counts = rounded(shares, draws)
        self._ends = np.cumsum(self.counts)

    def batch(self, step: int) -> Indices:
        """The samples of the global batch of `step`, int64 [at most global_batch]."""
        epoch, within = divmod(step, self.steps_per_epoch)
        first = within * self.global_batch
        last = min(first + self.global_batch, self.draws)
        draws = permuted(np.arange(first, last), self.draws, self.seed, epoch)
        which = np.searchsorted(self._ends, draws, side="right")
        found = np.empty_like(draws)
        for number in np.unique(which):
            mine = which == number
            turns = draws[mine] - (self._ends[number] - self.counts[number]) + epoch * self.counts[number]
            found[mine] = self._starts[number] + drawn_in_turn(turns, self.sizes[number], self.seed + 1 + int(number))
        return found


class CyclicOrder:
    """The samples in each step of a set that is passed over repeatedly, independently of the epochs."""

    def __init__(self, samples: int, batch: int, seed: int) -> None:
        self.samples, self.size, self.seed = samples, batch, seed

    def batch(self, step: int) -> Indices:
        """The samples of a step, int64 [batch]."""
        return drawn_in_turn(np.arange(step * self.size, (step + 1) * self.size), self.samples, self.seed)


def drawn_in_turn(turns: Indices, samples: int, seed: int) -> Indices:
    """The samples of some turns; each pass of `samples` turns has every sample once, in another order."""
    found = np.empty_like(turns)
    rounds = turns // samples
    for number in np.unique(rounds):
        mine = rounds == number
        found[mine] = permuted(turns[mine] % samples, samples, seed, int(number))
    return found


def shares_of(sizes: Sequence[int], alpha: float, weights: Sequence[float] | None) -> list[float]:
    """Each set's share: its weight, or its size to the power `alpha` (temperature mixing)."""
    raw = [float(size) ** alpha for size in sizes] if weights is None else list(weights)
    return [value / sum(raw) for value in raw]


def rounded(shares: Sequence[float], total: int) -> NDArray[np.int64]:
    """Integers closest to the shares of `total` that add up to it (largest remainder method)."""
    exact = np.asarray(shares) * total
    counts = np.floor(exact + 1e-9).astype(np.int64)
    order = np.argsort(-(exact - counts), kind="stable")
    counts[order[: total - int(counts.sum())]] += 1
    return counts
