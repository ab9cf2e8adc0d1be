"""Calibration equals a loop over the bins and scipy's minimum, and scaling is not judged by what it was fitted on."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from launcher.measure.compare.calibration import BINS, calibration, calibration_error, fitted_temperature


def drawn(seed: int, samples: int, classes: int, sureness: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose softmax at temperature `sureness` is the truth that labels are drawn from."""
    draw = np.random.default_rng(seed)
    true = draw.normal(0, 1.5, (samples, classes))
    labels = np.array([draw.choice(classes, p=row) for row in softmax(true, axis=1)])
    return true * sureness, labels


@pytest.mark.parametrize("case", range(10))
def test_the_error_equals_a_loop_over_the_bins(case: int) -> None:
    scores, labels = drawn(case, 200, 2 + case % 4, 1 + case % 3)
    chances = softmax(scores, axis=1)
    sure, right = chances.max(1), chances.argmax(1) == labels
    naive = 0.0
    for number in range(BINS):
        inside = (sure > number / BINS) & (sure <= (number + 1) / BINS)
        if inside.any():
            naive += inside.mean() * abs(right[inside].mean() - sure[inside].mean())
    assert calibration_error(chances, labels) == pytest.approx(naive, abs=1e-12)


@pytest.mark.parametrize("sureness", [0.3, 1.0, 4.0])
def test_the_temperature_is_where_scipy_finds_the_least_loss(sureness: float) -> None:
    scores, labels = drawn(1, 3000, 3, sureness)

    def loss(log_temperature: float) -> float:
        chances = log_softmax(scores / np.exp(log_temperature), axis=1)
        return -float(chances[np.arange(len(labels)), labels].mean())

    reference = float(np.exp(minimize_scalar(loss, bounds=(-4, 4), method="bounded", options={"xatol": 1e-9}).x))
    assert fitted_temperature(scores, labels) == pytest.approx(reference, rel=1e-4)
    assert fitted_temperature(scores, labels) == pytest.approx(sureness, rel=0.1)


def test_a_model_that_is_too_sure_is_mended_and_one_that_is_right_is_left() -> None:
    too_sure = calibration(*drawn(2, 4000, 3, 4.0), seed=0)
    just_right = calibration(*drawn(2, 4000, 3, 1.0), seed=0)
    assert too_sure is not None
    assert just_right is not None
    assert too_sure.error > 0.15
    assert too_sure.scaled_error < 0.03
    assert just_right.error < 0.03
    assert just_right.scaled_error < 0.03


def test_a_half_is_scaled_by_the_temperature_of_the_other() -> None:
    scores, labels = drawn(3, 400, 2, 3.0)
    order = np.random.default_rng(7).permutation(400)
    one, other = order[:200], order[200:]
    scaled = np.empty_like(scores)
    scaled[one] = scores[one] / fitted_temperature(scores[other], labels[other])
    scaled[other] = scores[other] / fitted_temperature(scores[one], labels[one])
    found = calibration(scores, labels, seed=7)
    assert found is not None
    assert found.scaled_error == pytest.approx(calibration_error(softmax(scaled, axis=1), labels), abs=1e-12)


def test_scores_that_are_no_number_or_too_few_have_no_calibration() -> None:
    scores, labels = drawn(4, 100, 2, 1.0)
    assert calibration(scores[:20], labels[:20], seed=0) is None
    scores[3, 1] = np.nan
    assert calibration(scores, labels, seed=0) is None


def test_a_model_that_is_always_right_and_sure_has_finite_figures() -> None:
    labels = np.arange(60) % 2
    scores = np.eye(2)[labels] * 50
    found = calibration(scores, labels, seed=0)
    assert found is not None
    assert np.isfinite([found.error, found.scaled_error, found.temperature]).all()
    assert found.error < 1e-9
