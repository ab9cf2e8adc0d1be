"""Classification metrics from counts, which are summed over ranks without gathering predictions.

All of them need only the true positives, labels and predictions of each class, from the non-zero cells of a confusion
matrix or counted directly. Conventions are those of scikit-learn: classes that neither occur nor are predicted are
ignored; 0/0 is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.float64]
Indices = NDArray[np.int64]

CELLS_AT_ONCE = 2_000_000
"""Counts of cells and classes in memory at once, over all resamples."""


class ClassCounts(NamedTuple):
    """Counts of each class, [..., classes]: true positives, labels, predictions."""

    hits: Counts
    true: Counts
    predicted: Counts


@dataclass(frozen=True)
class Cells:
    """The non-zero cells of a confusion matrix, so that memory does not grow with the square of the classes.

    Classes that neither occur nor are predicted are dropped; the others are renumbered in the same order.

    true, predicted: [cells] the classes of each cell
    samples: [cells] number of samples in each
    classes: number of classes that occur or are predicted
    """

    true: Indices
    predicted: Indices
    samples: Indices
    classes: int

    @classmethod
    def of_samples(cls, true: Indices, predicted: Indices) -> Cells:
        """The cells of samples [samples], whose classes are integers from 0."""
        pairs, samples = np.unique(np.stack([true, predicted], axis=1), axis=0, return_counts=True)
        found, numbers = np.unique(pairs, return_inverse=True)
        numbers = numbers.reshape(pairs.shape)
        return cls(numbers[:, 0], numbers[:, 1], samples, len(found))

    def counts(self, weights: Counts) -> ClassCounts:
        """[draws, classes] from the number of samples in each cell, weights [draws, cells]."""
        return _class_counts(self.true, self.predicted, weights, self.classes)


def of_samples(labels: Counts, predicted: Counts, weights: Counts) -> ClassCounts:
    """[draws, classes] from samples, integers [samples], with weights [draws, samples].

    The classes are those that occur or are predicted, in their order.
    """
    found, numbers = np.unique(np.concatenate([labels, predicted]), return_inverse=True)
    return _class_counts(numbers[: len(labels)], numbers[len(labels) :], weights, len(found))


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


def bootstrap_intervals(cells: Cells, seed: int, resamples: int = 1000) -> dict[str, tuple[float, float]]:
    """95 % percentile bootstrap interval of each metric, from the non-zero cells of the confusion matrix.

    Resampling with replacement samples the cells from a multinomial. So the cost depends on the number of non-zero
    cells, which is at most the number of samples, however many classes there are.
    """
    samples = int(cells.samples.sum())
    draw = np.random.default_rng(seed)
    values: dict[str, list[Counts]] = {name: [] for name in METRICS}
    at_once = max(1, CELLS_AT_ONCE // (len(cells.samples) + cells.classes))
    for start in range(0, resamples, at_once):
        drawn = draw.multinomial(samples, cells.samples / samples, size=min(at_once, resamples - start))
        counts = cells.counts(drawn.astype(np.float64))
        for name, metric in METRICS.items():
            values[name].append(metric(counts))
    ends = {name: np.quantile(np.concatenate(parts), [0.025, 0.975]) for name, parts in values.items()}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def _class_counts(true: Indices, predicted: Indices, weights: Counts, classes: int) -> ClassCounts:
    """[draws, classes] from cells or samples with consecutive class numbers."""
    hits = weights * (true == predicted)
    return ClassCounts(
        _by_class(hits, true, classes), _by_class(weights, true, classes), _by_class(weights, predicted, classes)
    )


def _by_class(weights: Counts, classes: Indices, count: int) -> Counts:
    """[draws, count] the sums of weights [draws, samples] over the samples of each class."""
    order = np.argsort(classes, kind="stable")
    found, starts = np.unique(classes[order], return_index=True)
    sums = np.zeros((len(weights), count))
    sums[:, found] = np.add.reduceat(weights[:, order], starts, axis=1)
    return sums


def _ratio(above: Counts, below: Counts) -> Counts:
    """above / below, or 0 if below is 0."""
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=np.asarray(below) > 0)
