"""The order of the training samples: a function of the seed, the epoch and the position alone.

The order is a permutation that is computed position by position. So any step of any epoch is reached at once, and no
shuffled list is stored. It is a Feistel network over the smallest even-bit domain that contains the samples, iterated
until the value is in range (cycle walking; Black and Rogaway 2002, "Ciphers with arbitrary finite domains"), with
splitmix64 (Steele et al. 2014) as the round function.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROUNDS = 6
"""Three rounds give a pseudo-random permutation (Luby and Rackoff 1988); small domains need more."""

Indices = NDArray[np.int64]


class SampleOrder:
    """The samples of each optimizer step.

    Step `t` counts from 0 over all epochs; the last step of an epoch has the remaining samples.
    """

    def __init__(self, samples: int, global_batch: int, seed: int) -> None:
        self.samples, self.global_batch, self.seed = samples, global_batch, seed
        self.steps_per_epoch = -(-samples // global_batch)

    def batch(self, step: int) -> Indices:
        """The samples of the global batch of `step`, int64 [at most global_batch]."""
        epoch, within = divmod(step, self.steps_per_epoch)
        first = within * self.global_batch
        last = min(first + self.global_batch, self.samples)
        return permuted(np.arange(first, last), self.samples, self.seed, epoch)


def permuted(positions: Indices, samples: int, seed: int, epoch: int) -> Indices:
    """The samples at `positions` of the epoch's order, in time that does not depend on `samples`."""
    half_bits = max(1, (max(samples - 1, 1).bit_length() + 1) // 2)
    start = _splitmix64(np.array([seed + (epoch << 32)], dtype=np.uint64))
    keys = _splitmix64(start ^ np.arange(ROUNDS, dtype=np.uint64))
    values = _feistel(positions.astype(np.uint64), half_bits, keys)
    outside = values >= samples
    while outside.any():
        values[outside] = _feistel(values[outside], half_bits, keys)
        outside = values >= samples
    return values.astype(np.int64)


def _feistel(values: NDArray[np.uint64], half_bits: int, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> bits, values & mask
    for key in keys:
        left, right = right, left ^ (_splitmix64(right + key) & mask)
    return (left << bits) | right


def _splitmix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is intended
        mixed = values + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
