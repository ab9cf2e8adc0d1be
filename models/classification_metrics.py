"""Classification metrics from a confusion matrix, which sums over ranks without gathering anything.

Each function takes counts [..., true class, predicted class] and gives [...]. Conventions are those of
scikit-learn: classes that neither occur nor are predicted do not count, and 0/0 is 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.float64]


def accuracy(counts: Counts) -> Counts:
    """Share of samples whose class was predicted."""
    return _ratio(np.trace(counts, axis1=-2, axis2=-1), counts.sum((-2, -1)))


def balanced_accuracy(counts: Counts) -> Counts:
    """Mean recall over the classes that occur."""
    occurs = counts.sum(-1) > 0
    recall = _ratio(_diagonal(counts), counts.sum(-1))
    return _ratio((recall * occurs).sum(-1), occurs.sum(-1))


def macro_f1(counts: Counts) -> Counts:
    """Mean F1 over the classes that occur or are predicted."""
    true, predicted = counts.sum(-1), counts.sum(-2)
    matters = (true + predicted) > 0
    f1 = _ratio(2 * _diagonal(counts), true + predicted)
    return _ratio((f1 * matters).sum(-1), matters.sum(-1))


def matthews(counts: Counts) -> Counts:
    """Matthews correlation for any number of classes (Gorodkin 2004)."""
    true, predicted = counts.sum(-1), counts.sum(-2)
    samples = counts.sum((-2, -1))
    correct = np.trace(counts, axis1=-2, axis2=-1)
    covariance = correct * samples - (true * predicted).sum(-1)
    spread = (samples**2 - (true**2).sum(-1)) * (samples**2 - (predicted**2).sum(-1))
    return _ratio(covariance, np.sqrt(spread))


METRICS: dict[str, Callable[[Counts], Counts]] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "matthews": matthews,
}


def bootstrap_intervals(counts: Counts, seed: int, resamples: int = 1000) -> dict[str, tuple[float, float]]:
    """95 % percentile bootstrap interval of each metric, from one confusion matrix [true, predicted].

    Drawing samples with replacement draws the cells of the matrix from a multinomial, so nothing but the
    matrix is needed and the cost does not depend on the number of samples.
    """
    samples = int(counts.sum())
    classes = len(counts)
    cells = np.flatnonzero(counts)
    draw = np.random.default_rng(seed)
    values: dict[str, list[Counts]] = {name: [] for name in METRICS}
    at_once = max(1, 4_000_000 // classes**2)
    for start in range(0, resamples, at_once):
        drawn = draw.multinomial(samples, counts.flat[cells] / samples, size=min(at_once, resamples - start))
        tables = np.zeros((len(drawn), classes * classes))
        tables[:, cells] = drawn
        for name, metric in METRICS.items():
            values[name].append(metric(tables.reshape(-1, classes, classes)))
    ends = {name: np.quantile(np.concatenate(parts), [0.025, 0.975]) for name, parts in values.items()}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def _diagonal(counts: Counts) -> Counts:
    return np.diagonal(counts, axis1=-2, axis2=-1)


def _ratio(above: Counts, below: Counts) -> Counts:
    """above / below, and 0 where below is 0."""
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=np.asarray(below) > 0)
