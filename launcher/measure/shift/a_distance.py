"""Proxy A-distance: how well a classifier separates source from target (Ben-David et al. 2007, "Analysis of
representations for domain adaptation"): 2·(1 − 2ε) for its error ε, 0 at chance level and 2 without any error.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.floating[Any]]
"""[samples, size]."""

FOLDS = 5
MOST = 5000
"""Maximum number of samples per side: more hardly change the result."""
STRENGTH = 0.01
"""Inverse of the classifier's L2 penalty on standardised features; a weak penalty overfits a small set."""
Z = 1.959963984540054


@dataclass(frozen=True)
class ADistance:
    """The distance with its 95 % interval, clipped at 0.

    error: share of held-out samples that the classifier assigns to the wrong side
    samples: number on both sides together, equally many on each
    """

    distance: float
    low: float
    high: float
    error: float
    samples: int


def proxy_a_distance(one: Features, other: Features, seed: int = 0) -> ADistance:
    """The distance by five-fold cross-validated logistic regression, on equally many samples of each side.

    The interval is Wilson's for the error, assuming independent samples. Needs scikit-learn.
    """
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    count = min(len(one), len(other), MOST)
    draw = np.random.default_rng(seed)
    sides = [draw.permutation(len(side))[:count] for side in (one, other)]
    features = np.concatenate([one[sides[0]], other[sides[1]]]).astype(np.float64)
    domain = np.repeat([0, 1], count)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    predicted = cross_val_predict(linear_probe(STRENGTH), features, domain, cv=folds)
    error = float((predicted != domain).mean())
    low, high = wilson(error, 2 * count)
    return ADistance(_distance(error), _distance(high), _distance(low), error, 2 * count)


def linear_probe(strength: float) -> Any:
    """Logistic regression on standardised features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))


def wilson(share: float, samples: int) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson 1927)."""
    middle = (share + Z**2 / (2 * samples)) / (1 + Z**2 / samples)
    half = Z / (1 + Z**2 / samples) * sqrt(share * (1 - share) / samples + Z**2 / (4 * samples**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def _distance(error: float) -> float:
    return max(0.0, 2 * (1 - 2 * error))
