"""Model selection for a target domain without labels.

Labelled source samples are importance-weighted, w(x) = p(target | x) / p(source | x), by a domain classifier on
features (Sugiyama et al. 2007, "Covariate Shift Adaptation by Importance Weighted Cross Validation"). A control variate
lowers the variance of the weighted mean (You et al. 2019, "Towards Accurate Model Selection in Deep Unsupervised Domain
Adaptation", algorithm 1). The estimate assumes covariate shift: p(label | x) is the same in both domains. A model that
has collapsed onto some classes in the target is detected by its predictions there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

HEAVIEST = 10.0
"""The largest weight of a sample; the mean weight is 1."""
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
STEPS = 30
RARE, LOST = 0.05, 0.1
"""A class is lost if its share of training is at least `RARE`, and it is predicted less than `LOST` as often."""


@dataclass(frozen=True)
class Estimate:
    """The mean of a metric over the target, estimated from the source.

    error: its standard error
    worth: effective sample size (Kish 1965: (Σw)² / Σw²)
    """

    value: float
    error: float
    worth: float


def importance_weights(source: Values, target: Values, held: Values, seed: int) -> Values:
    """[held] the weights of held-out source samples, normalised to mean 1, then clipped at `HEAVIEST`.

    Samples that the classifier was trained on would give another mean, since it is more confident about them.

    source, target: features [samples, size] that the domain classifier is trained on
    held: features of the samples to weight, which it must not be trained on
    """
    together = np.concatenate([source, target])
    middle, spread = together.mean(0), together.std(0) + 1e-12
    source, target, held = ((some - middle) / spread for some in (source, target, held))
    weights, bias = _domain_classifier(source, target, seed)
    odds: Values = np.exp(np.clip(held @ weights + bias, -30, 30))
    return np.minimum(odds / odds.mean(), HEAVIEST)


def weighted_mean(values: Values, weights: Values) -> Estimate:
    """The mean of `values` [samples] under `weights` [samples] whose expectation is 1.

    With η = -cov(w·v, w) / var(w), the mean of w·v + η·(w - 1) has the same expectation and minimal variance.
    """
    weighted = weights * values
    variance = weights.var()
    eta = -((weighted - weighted.mean()) * (weights - weights.mean())).mean() / variance if variance > 0 else 0.0
    terms = weighted + eta * (weights - 1)
    return Estimate(
        value=float(terms.mean()),
        error=float(terms.std() / np.sqrt(len(terms))),
        worth=float(weights.sum() ** 2 / (weights**2).sum()),
    )


def lost_classes(answered: Values, trained: Values) -> list[int]:
    """The classes that occur in training and are hardly predicted in the target: the model has collapsed.

    answered: [classes] predictions of each in the target; trained: [classes] training samples of each
    """
    answers, shares = answered / answered.sum(), trained / trained.sum()
    return [int(number) for number in np.flatnonzero((shares >= RARE) & (answers < LOST * shares))]


def _domain_classifier(source: Values, target: Values, seed: int) -> tuple[Values, float]:
    """Logistic regression, with the penalty that has the lowest loss on a held-out fifth."""
    features = np.concatenate([source, target])
    labels = np.repeat([0.0, 1.0], [len(source), len(target)])
    counts = np.repeat([0.5 / len(source), 0.5 / len(target)], [len(source), len(target)])  # as if of equal size
    order = np.random.default_rng(seed).permutation(len(labels))
    held, rest = order[: len(order) // 5], order[len(order) // 5 :]

    def loss(penalty: float) -> float:
        weights, bias = logistic_regression(features[rest], labels[rest], counts[rest], penalty)
        scores = features[held] @ weights + bias
        return float((counts[held] * (np.logaddexp(0, scores) - labels[held] * scores)).sum())

    return logistic_regression(features, labels, counts, min(PENALTIES, key=loss))


def logistic_regression(features: Values, labels: Values, counts: Values, penalty: float) -> tuple[Values, float]:
    """Weights [size] and bias that minimise the loss weighted by `counts`, plus penalty/2 · |weights|².

    Newton's method, halving a step that does not lower the loss. The problem is convex, so this finds the minimum.
    """
    inputs = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    shares = counts / counts.sum()
    ridge = np.append(np.full(features.shape[1], penalty), 0.0)
    found = np.zeros(inputs.shape[1])

    def loss(weights: Values) -> float:
        scores = inputs @ weights
        return float((shares * (np.logaddexp(0, scores) - labels * scores)).sum() + (ridge * weights**2).sum() / 2)

    for _ in range(STEPS):
        chances = 1 / (1 + np.exp(-np.clip(inputs @ found, -500, 500)))
        slope = inputs.T @ (shares * (chances - labels)) + ridge * found
        curvature = (inputs * (shares * chances * (1 - chances))[:, None]).T @ inputs + np.diag(ridge + 1e-10)
        step, size = np.linalg.solve(curvature, slope), 1.0
        while loss(found - size * step) > loss(found) and size > 1e-6:
            size /= 2
        found = found - size * step
        if np.abs(slope).max() < 1e-9:
            break
    return found[:-1], float(found[-1])
