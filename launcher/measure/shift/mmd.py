"""Maximum mean discrepancy: whether two sets of features come from one distribution (Gretton et al. 2012, "A kernel
two-sample test", JMLR 13).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

MOST = 1000
"""Maximum number of samples per side, since the test uses all pairs."""
PERMUTATIONS = 999


@dataclass(frozen=True)
class MMD:
    """The unbiased estimate of MMD², which may be negative, and its p-value.

    width: of the Gaussian kernel exp(−d² / 2·width²): the median distance of two samples of either side
    """

    squared: float
    p_value: float
    width: float
    samples: int


def mmd_test(one: NDArray[Any], other: NDArray[Any], seed: int = 0) -> MMD:
    """MMD² and its permutation test with 999 permutations."""
    draw = np.random.default_rng(seed)
    parts = [side[draw.permutation(len(side))[:MOST]].astype(np.float64) for side in (one, other)]
    squares = squared_distances(np.concatenate(parts))
    width = float(np.sqrt(np.median(squares[np.triu_indices(len(squares), 1)]))) or 1.0
    kernel = np.exp(-squares / (2 * width**2))
    first = len(parts[0])
    sides = np.zeros((len(kernel), 1 + PERMUTATIONS))
    sides[:first, 0] = 1
    for column in range(1, 1 + PERMUTATIONS):
        sides[draw.permutation(len(kernel))[:first], column] = 1
    values = unbiased_mmd(kernel, sides)
    as_much = int((values[1:] >= values[0]).sum())
    return MMD(float(values[0]), (1 + as_much) / (1 + PERMUTATIONS), width, len(kernel))


def unbiased_mmd(kernel: Numbers, sides: Numbers) -> Numbers:
    """[permutations] MMD² (Gretton et al. 2012, equation 3), without pairs of a sample with itself.

    kernel: [samples, samples]
    sides: [samples, permutations] 1 for the samples of the first side
    """
    kernel = kernel - np.diag(np.diag(kernel))
    ones, others = sides, 1 - sides
    to_ones = kernel @ ones
    to_others = kernel.sum(axis=1, keepdims=True) - to_ones
    m, n = ones.sum(axis=0), others.sum(axis=0)
    within = (ones * to_ones).sum(axis=0) / (m * (m - 1)) + (others * to_others).sum(axis=0) / (n * (n - 1))
    found: Numbers = within - 2 * (ones * to_others).sum(axis=0) / (m * n)
    return found


def squared_distances(points: Numbers) -> Numbers:
    """[points, points] squared Euclidean distances; centred first for precision."""
    points = points - points.mean(axis=0)
    squares = (points**2).sum(axis=1)
    return np.maximum(squares[:, None] + squares[None, :] - 2 * points @ points.T, 0.0)
