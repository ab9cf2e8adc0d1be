"""How well the pretrained features predict the labels, before training: advice on which model to start from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
MOST = 10_000
"""Maximum number of samples, since the scores decompose the matrix of all of them."""
ROUNDS = 100
ENOUGH = 1e-5
FARTHEST = 1e12
"""Maximum ratio of the two precisions: with more features than samples there is no noise, and the fixed point is at
infinity.
"""


@dataclass(frozen=True)
class Transferability:
    """Two scores to compare models on the same data: higher is better.

    h_score: from 0 to the number of classes minus one; None if labels are numbers
    logme: log evidence per sample; meaningful only in comparison
    """

    h_score: float | None
    most: int | None
    logme: float


def transferability(features: NDArray[Any], labels: NDArray[Any], seed: int = 0) -> Transferability:
    """The scores for labels 0 … classes − 1, or for numbers."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(labels))[:MOST])
    numbers, labels = features[chosen].astype(np.float64), labels[chosen]
    if np.issubdtype(labels.dtype, np.integer):
        classes = int(labels.max()) + 1
        return Transferability(h_score(numbers, labels), classes - 1, logme(numbers, np.eye(classes)[labels]))
    return Transferability(None, None, logme(numbers, labels.astype(np.float64)[:, None]))


def h_score(features: Numbers, labels: NDArray[Any]) -> float:
    """tr(C_α⁻¹ · (1 − α)·cov(E[f | y])) with the covariance C_α of the features shrunk (Ibrahim et al. 2021, "Newer is
    not always better: rethinking transferability metrics, their peculiarities, stability and performance").

    α is that of Ledoit and Wolf (2004). Without shrinkage, features of many dimensions and few samples look perfect.
    """
    centred = features - features.mean(axis=0)
    alpha = ledoit_wolf(centred)
    samples, size = centred.shape
    covariance = centred.T @ centred / samples
    shrunk = (1 - alpha) * covariance + alpha * np.trace(covariance) / size * np.eye(size)
    counts = np.bincount(labels)
    sums = np.zeros((len(counts), size))
    np.add.at(sums, labels, centred)
    means = sums / np.maximum(counts, 1)[:, None]
    between = (means * counts[:, None]).T @ means / samples
    return float((1 - alpha) * np.trace(np.linalg.pinv(shrunk, hermitian=True) @ between))


def ledoit_wolf(centred: Numbers) -> float:
    """Shrinkage of the covariance of centred samples towards a multiple of the identity (Ledoit and Wolf 2004, "A
    well-conditioned estimator for large-dimensional covariance matrices").
    """
    samples, size = centred.shape
    covariance = centred.T @ centred / samples
    squares = float((covariance**2).sum())
    spread = squares - float(np.trace(covariance)) ** 2 / size
    noise = (float(((centred**2).sum(axis=1) ** 2).sum()) / samples - squares) / samples
    return 0.0 if spread <= 0 else float(np.clip(noise / spread, 0.0, 1.0))


def logme(features: Numbers, targets: Numbers) -> float:
    """The mean over targets of the log evidence per sample of Bayesian linear regression, maximised over its two
    precisions (You et al. 2021, "LogME: practical assessment of pre-trained models for transfer learning").

    targets: [samples, targets]; one-hot columns for classes
    """
    left, singular, _ = np.linalg.svd(features, full_matrices=False)
    return float(np.mean([_evidence(left, singular**2, features.shape, target) for target in targets.T]))


def _evidence(left: Numbers, squares: Numbers, shape: tuple[int, ...], target: Numbers) -> float:
    """The log evidence per sample at the fixed point of α (precision of the weights) and β (of the noise)."""
    samples, size = shape
    along = (left.T @ target) ** 2
    across = max(float(target @ target - along.sum()), 0.0)
    alpha = beta = 1.0
    for _ in range(ROUNDS):
        weight, error = _fit(squares, along, across, alpha, beta)
        gamma = float((beta * squares / (alpha + beta * squares)).sum())
        rest = samples - len(squares) + float((alpha / (alpha + beta * squares)).sum())  # samples - gamma, never 0
        before = alpha / beta
        alpha, beta = gamma / max(weight, 1e-300), rest / max(error, 1e-300)
        ratio, strongest = alpha / beta, float(squares.max())
        is_at_an_end = not strongest / FARTHEST < ratio < strongest * FARTHEST
        if is_at_an_end or abs(ratio - before) <= ENOUGH * before:
            break
    weight, error = _fit(squares, along, across, alpha, beta)
    log_determinant = float(np.log(alpha + beta * squares).sum()) + (size - len(squares)) * float(np.log(alpha))
    log_evidence = samples * np.log(beta / (2 * np.pi)) + size * np.log(alpha) - log_determinant
    return float((log_evidence - beta * error - alpha * weight) / (2 * samples))


def _fit(squares: Numbers, along: Numbers, across: float, alpha: float, beta: float) -> tuple[float, float]:
    """|m|² and |F·m − y|² of the posterior mean m of the weights."""
    both = alpha + beta * squares
    return float((beta**2 * squares * along / both**2).sum()), float((alpha**2 * along / both**2).sum()) + across
