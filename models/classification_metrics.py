"""Classification metrics from counts, which sum over ranks without gathering anything.

All of them need only how often each class was hit, was true and was predicted; from a confusion matrix, or counted
directly. Conventions are those of scikit-learn: classes that neither occur nor are predicted do not count; 0/0 is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.float64]


class ClassCounts(NamedTuple):
    """Of each class, [..., classes]: how often it was rightly predicted, was true, was predicted."""

    hits: Counts
    true: Counts
    predicted: Counts


def of_matrix(counts: Counts) -> ClassCounts:
    """From confusion matrices [..., true class, predicted class]."""
    return ClassCounts(np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(-1), counts.sum(-2))


def of_samples(labels: Counts, predicted: Counts, weights: Counts) -> ClassCounts:
    """[draws, classes] from samples, whole numbers [samples], that count as often as weights [draws, samples] say."""
    classes = int(max(labels.max(initial=0), predicted.max(initial=0))) + 1
    hits = weights * (labels == predicted)
    return ClassCounts(
        _by_class(hits, labels, classes), _by_class(weights, labels, classes), _by_class(weights, predicted, classes)
    )


def accuracy(counts: ClassCounts) -> Counts:
    """Share of samples whose class was predicted."""
    return _ratio(counts.hits.sum(-1), counts.true.sum(-1))


def balanced_accuracy(counts: ClassCounts) -> Counts:
    """Mean recall over the classes that occur."""
    occurs = counts.true > 0
    return _ratio((_ratio(counts.hits, counts.true) * occurs).sum(-1), occurs.sum(-1))


def macro_f1(counts: ClassCounts) -> Counts:
    """Mean F1 over the classes that occur or are predicted."""
    either = counts.true + counts.predicted
    matters = either > 0
    return _ratio((_ratio(2 * counts.hits, either) * matters).sum(-1), matters.sum(-1))


def matthews(counts: ClassCounts) -> Counts:
    """Matthews correlation for any number of classes (Gorodkin 2004)."""
    hits, true, predicted = counts
    samples = true.sum(-1)
    covariance = hits.sum(-1) * samples - (true * predicted).sum(-1)
    spread = (samples**2 - (true**2).sum(-1)) * (samples**2 - (predicted**2).sum(-1))
    return _ratio(covariance, np.sqrt(spread))


METRICS: dict[str, Callable[[ClassCounts], Counts]] = {
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
        drawn_counts = of_matrix(tables.reshape(-1, classes, classes))
        for name, metric in METRICS.items():
            values[name].append(metric(drawn_counts))
    ends = {name: np.quantile(np.concatenate(parts), [0.025, 0.975]) for name, parts in values.items()}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def _by_class(weights: Counts, classes: Counts, count: int) -> Counts:
    """[draws, count] the sums of weights [draws, samples] over the samples of each class."""
    order = np.argsort(classes, kind="stable")
    found, starts = np.unique(classes[order], return_index=True)
    sums = np.zeros((len(weights), count))
    sums[:, found.astype(np.int64)] = np.add.reduceat(weights[:, order], starts, axis=1)
    return sums


def _ratio(above: Counts, below: Counts) -> Counts:
    """above / below, and 0 where below is 0."""
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=np.asarray(below) > 0)
