"""Proxy A-distance: how well a classifier tells source from target (Ben-David et al. 2007, "Analysis of representations
for domain adaptation"): 2·(1 − 2ε) of its error ε, 0 where it cannot and 2 where it never errs.
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
"""Samples of each side, at most: more change the second digit of nothing."""
STRENGTH = 0.01
"""Inverse of the classifier's L2 penalty on standardised features; a weak penalty learns a small set by heart."""
Z = 1.959963984540054


@dataclass(frozen=True)
class ADistance:
    """The distance with its 95 % interval, clipped at 0.

    error: share of samples that the classifier, which never saw them, puts on the wrong side
    samples: on both sides together, as many on each
    """

    distance: float
    low: float
    high: float
    error: float
    samples: int


def proxy_a_distance(one: Features, other: Features, seed: int = 0) -> ADistance:
    """By logistic regression over five folds, on as many samples of each side.

    The interval is Wilson's for the error, which takes the samples for independent. Needs scikit-learn.
    """
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    count = min(len(one), len(other), MOST)
    draw = np.random.default_rng(seed)
    sides = [draw.permutation(len(side))[:count] for side in (one, other)]
    features = np.concatenate([one[sides[0]], other[sides[1]]]).astype(np.float64)
    domain = np.repeat([0, 1], count)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    told = cross_val_predict(linear_probe(STRENGTH), features, domain, cv=folds)
    error = float((told != domain).mean())
    low, high = wilson(error, 2 * count)
    return ADistance(_distance(error), _distance(high), _distance(low), error, 2 * count)


def linear_probe(strength: float) -> Any:
    """Logistic regression on standardised features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))


def wilson(share: float, samples: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    middle = (share + Z**2 / (2 * samples)) / (1 + Z**2 / samples)
    half = Z / (1 + Z**2 / samples) * sqrt(share * (1 - share) / samples + Z**2 / (4 * samples**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def _distance(error: float) -> float:
    return max(0.0, 2 * (1 - 2 * error))
