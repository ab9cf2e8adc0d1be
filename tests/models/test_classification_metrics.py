"""The metrics equal scikit-learn's, and the intervals cover what they should."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from launcher.models.parts.classification_metrics import METRICS, Cells, bootstrap_intervals, of_samples

REFERENCES = {
    "accuracy": sk.accuracy_score,
    "balanced_accuracy": sk.balanced_accuracy_score,
    "macro_f1": lambda true, predicted: sk.f1_score(true, predicted, average="macro", zero_division=0),
    "matthews": sk.matthews_corrcoef,
}


def measured(name: str, true: np.ndarray, predicted: np.ndarray) -> float:
    cells = Cells.of_samples(true, predicted)
    return METRICS[name](cells.counts(cells.samples[None].astype(float))).item()


def cells_of(counts: list[list[int]]) -> Cells:
    """Of a whole confusion matrix [true, predicted]."""
    true, predicted = np.indices(np.shape(counts)).reshape(2, -1)
    return Cells.of_samples(np.repeat(true, np.ravel(counts)), np.repeat(predicted, np.ravel(counts)))


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("case", range(60))
def test_metrics_equal_scikit_learn(name: str, case: int) -> None:
    draw = np.random.default_rng(case)
    classes, samples = int(draw.integers(2, 6)), int(draw.integers(1, 40))
    true = draw.integers(0, int(draw.integers(1, classes + 1)), samples)
    predicted = draw.integers(0, int(draw.integers(1, classes + 1)), samples)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes that are predicted and never true
        expected = REFERENCES[name](true, predicted)
    assert measured(name, true, predicted) == pytest.approx(expected, abs=1e-12)
    weighted = METRICS[name](of_samples(true.astype(float), predicted.astype(float), np.ones((1, samples))))
    assert weighted.item() == pytest.approx(expected, abs=1e-12)


def test_intervals_equal_a_bootstrap_over_the_samples() -> None:
    draw = np.random.default_rng(0)
    true = draw.integers(0, 3, 300)
    predicted = np.where(draw.random(300) < 0.7, true, draw.integers(0, 3, 300))
    found = bootstrap_intervals(Cells.of_samples(true, predicted), seed=0, resamples=4000)
    for name in METRICS:
        drawn = [draw.integers(0, 300, 300) for _ in range(4000)]
        values = [measured(name, true[rows], predicted[rows]) for rows in drawn]
        assert found[name] == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=0.01)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    draw = np.random.default_rng(1)
    held = 0
    for number in range(300):
        right = draw.binomial(200, 0.8)
        counts = cells_of([[right, 200 - right], [0, 0]])
        low, high = bootstrap_intervals(counts, seed=number)["accuracy"]
        held += low <= 0.8 <= high
    assert 0.90 <= held / 300 <= 0.98


def test_the_same_seed_gives_the_same_interval() -> None:
    counts = cells_of([[30, 5], [7, 20]])
    assert bootstrap_intervals(counts, seed=3) == bootstrap_intervals(counts, seed=3)
    assert bootstrap_intervals(counts, seed=3) != bootstrap_intervals(counts, seed=4)


def test_intervals_are_drawn_as_from_the_whole_matrix() -> None:
    """The multinomial over the occupied cells, in the order of the matrix: 8 draws of it, by hand."""
    counts = np.array([[30, 0, 5], [0, 0, 0], [7, 1, 20]])
    drawn = np.random.default_rng(3).multinomial(63, counts[counts > 0] / 63, size=8)
    tables = np.zeros((8, 3, 3))
    tables[:, counts > 0] = drawn
    accuracies = np.trace(tables, axis1=1, axis2=2) / 63
    found = bootstrap_intervals(cells_of(counts.tolist()), seed=3, resamples=8)["accuracy"]
    assert found == pytest.approx(tuple(np.quantile(accuracies, [0.025, 0.975])), abs=1e-12)
