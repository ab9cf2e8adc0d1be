"""Whether a classifier is as sure as it is right, before and after its temperature is fitted."""

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
    """How far confidence is from accuracy.

    error: expected calibration error of the probabilities as they are
    scaled_error: the same after temperature scaling, each half of the samples with the temperature of the other half
    temperature: fitted on all samples; above 1 the model is too sure of itself
    """

    error: float
    scaled_error: float
    temperature: float


def calibration(scores: Values, labels: Labels, seed: int) -> Calibration | None:
    """Of scores [samples, classes] before the softmax; None where there are too few samples, or scores are no number.

    A temperature that is fitted on the samples it is judged by flatters; so the samples are halved at random and each
    half is scaled by what the other gave.
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
    """The number that scores are divided by so that the labels are likeliest (section 4.2 of the same).

    The mean loss is convex in 1/T, so halving the bracket of its minimum by the sign of the slope finds it.
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
