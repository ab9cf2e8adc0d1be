"""The metrics equal scikit-learn's, and the intervals cover what they should."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from launcher.models.classification_metrics import METRICS, bootstrap_intervals, of_matrix

REFERENCES = {
    "accuracy": sk.accuracy_score,
    "balanced_accuracy": sk.balanced_accuracy_score,
    "macro_f1": lambda true, predicted: sk.f1_score(true, predicted, average="macro", zero_division=0),
    "matthews": sk.matthews_corrcoef,
}


def confusion(true: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    return np.bincount(true * classes + predicted, minlength=classes**2).reshape(classes, classes).astype(float)


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
    assert METRICS[name](of_matrix(confusion(true, predicted, classes))) == pytest.approx(expected, abs=1e-12)


def test_intervals_equal_a_bootstrap_over_the_samples() -> None:
    draw = np.random.default_rng(0)
    true = draw.integers(0, 3, 300)
    predicted = np.where(draw.random(300) < 0.7, true, draw.integers(0, 3, 300))
    found = bootstrap_intervals(confusion(true, predicted, 3), seed=0, resamples=4000)
    for name, metric in METRICS.items():
        drawn = [draw.integers(0, 300, 300) for _ in range(4000)]
        values = [float(metric(of_matrix(confusion(true[rows], predicted[rows], 3)))) for rows in drawn]
        assert found[name] == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=0.01)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    draw = np.random.default_rng(1)
    held = 0
    for number in range(300):
        right = draw.binomial(200, 0.8)
        counts = np.array([[right, 200 - right], [0, 0]], dtype=float)
        low, high = bootstrap_intervals(counts, seed=number)["accuracy"]
        held += low <= 0.8 <= high
    assert 0.90 <= held / 300 <= 0.98


def test_the_same_seed_gives_the_same_interval() -> None:
    counts = np.array([[30.0, 5.0], [7.0, 20.0]])
    assert bootstrap_intervals(counts, seed=3) == bootstrap_intervals(counts, seed=3)
    assert bootstrap_intervals(counts, seed=3) != bootstrap_intervals(counts, seed=4)
