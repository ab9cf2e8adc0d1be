"""Calibration of a classifier: whether its confidence matches its accuracy, before and after temperature scaling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Labels = NDArray[np.int64]

BINS = 15
COLDEST, HOTTEST = 0.02, 50.0


@dataclass(frozen=True)
class Calibration:
    """The calibration error and the temperature.

    error: expected calibration error of the unscaled probabilities
    scaled_error: the same after temperature scaling, each half of the samples with the temperature of the other half
    temperature: fitted on all samples; above 1 the model is overconfident
    """

    error: float
    scaled_error: float
    temperature: float


def calibration(scores: Values, labels: Labels, seed: int) -> Calibration | None:
    """Calibration of logits [samples, classes]; None with too few samples, or if logits are NaN or infinite.

    A temperature fitted on the samples that evaluate it is biased. So the samples are split into random halves, and
    each half is scaled by the temperature of the other.
    """
    if len(scores) < 2 * BINS or not np.isfinite(scores).all():
        return None
    order = np.random.default_rng(seed).permutation(len(scores))
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    scaled = np.empty_like(scores)
    for own, other in (halves, halves[::-1]):
        scaled[own] = scores[own] / fitted_temperature(scores[other], labels[other])
    return Calibration(
        error=calibration_error(probabilities(scores), labels),
        scaled_error=calibration_error(probabilities(scaled), labels),
        temperature=fitted_temperature(scores, labels),
    )


def calibration_error(chances: Values, labels: Labels) -> float:
    """Expected calibration error: |accuracy - confidence| of the likeliest class, in 15 bins of equal width.

    chances: probabilities [samples, classes]
    Guo et al. 2017, "On Calibration of Modern Neural Networks" (arXiv:1706.04599), equation 3.
    """
    sure, right = chances.max(axis=1), chances.argmax(axis=1) == labels
    bins = np.clip(np.ceil(sure * BINS).astype(np.int64) - 1, 0, BINS - 1)
    gaps = np.bincount(bins, weights=right - sure, minlength=BINS)
    return float(np.abs(gaps).sum() / len(labels))


def fitted_temperature(scores: Values, labels: Labels) -> float:
    """The temperature that maximises the likelihood of the labels (section 4.2 of the same paper).

    The mean loss is convex in 1/T, so bisection on the sign of its slope finds the minimum.
    """
    low, high = 1 / HOTTEST, 1 / COLDEST
    of_label = scores[np.arange(len(labels)), labels]
    for _ in range(60):
        middle = (low + high) / 2
        slope = ((probabilities(scores * middle) * scores).sum(axis=1) - of_label).mean()
        low, high = (low, middle) if slope > 0 else (middle, high)
    return 2 / (low + high)


def probabilities(scores: Values) -> Values:
    """The softmax of each row."""
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances: Values = raised / raised.sum(axis=1, keepdims=True)
    return chances
