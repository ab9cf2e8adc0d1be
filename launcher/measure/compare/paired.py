"""Comparing two models on the same samples: paired bootstrap, exact McNemar test, Holm's correction.

Both models are evaluated on the same samples, so a resample contains the same samples for both. The difference
of their metrics then varies far less than either metric (Efron and Tibshirani 1993, "An Introduction to the Bootstrap",
chapters 13 and 16; Koehn 2004, "Statistical Significance Tests for Machine Translation Evaluation").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import exp, lgamma, log

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Measure = Callable[[Values, Values], Mapping[str, Values]]
"""From values [samples, columns] and weights [draws, samples] to each metric [draws]."""

DRAWS, LEAST_DRAWS = 10_000, 1_000
CELLS = 2_000_000_000
"""Sampled rows over all resamples, some minutes of one core: larger sets get fewer resamples."""
CELLS_AT_ONCE = 2_000_000
"""Weights in memory at once; a set with more samples is resampled once at a time."""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """One metric of two models on the same samples: `new - old`.

    low, high: ends of the 95 % percentile interval of the difference
    p: two-sided bootstrap p-value of no difference, never 0

    If the difference of any resample is NaN or infinite, the interval is NaN and the p-value is 1.
    """

    old: float
    new: float
    low: float
    high: float
    p: float

    @property
    def change(self) -> float:
        """How much the metric increased."""
        return self.new - self.old


def paired_bootstrap(
    new: Values, others: Mapping[str, Values], measure: Measure, *, seed: int, draws: int | None = None
) -> dict[str, dict[str, Difference]]:
    """For each other model, the difference of each metric.

    new, others: [samples, columns], of which row i is the same sample in all
    draws: how many resamples; None for `draws_for` so many samples
    """
    candidates = {name: old for name, old in others.items() if len(old) == len(new)}
    if len(candidates) < len(others):
        raise ValueError(f"{[len(old) for old in others.values()]} samples cannot be paired with {len(new)}")
    whole = np.ones((1, len(new)))
    figures, of_others = measure(new, whole), {name: measure(old, whole) for name, old in candidates.items()}
    drawn: dict[str, dict[str, list[Values]]] = {name: {metric: [] for metric in figures} for name in candidates}
    for weights in resamples(len(new), seed, draws or draws_for(len(new))):
        again = measure(new, weights)
        for name, old in candidates.items():
            for metric, values in measure(old, weights).items():
                drawn[name][metric].append(again[metric] - values)
    return {
        name: {
            metric: _difference(before[metric].item(), figures[metric].item(), np.concatenate(drawn[name][metric]))
            for metric in figures
        }
        for name, before in of_others.items()
    }


def draws_for(samples: int) -> int:
    """The number of resamples for a set of this size."""
    return max(LEAST_DRAWS, min(DRAWS, CELLS // samples))


def resamples(samples: int, seed: int, draws: int = DRAWS) -> Iterator[Values]:
    """How often each of `draws` resamples contains each sample, in blocks of [resamples, samples].

    Each resample has as many samples as the set, sampled with replacement.
    """
    draw = np.random.default_rng(seed)
    at_once = max(1, CELLS_AT_ONCE // samples)
    for start in range(0, draws, at_once):
        count = min(at_once, draws - start)
        chosen = draw.integers(0, samples, size=(count, samples))
        chosen += np.arange(count)[:, None] * samples
        counted = np.bincount(chosen.ravel(), minlength=count * samples)
        yield counted.reshape(count, samples).astype(np.float64)


def _difference(old: float, new: float, drawn: Values) -> Difference:
    """The percentile interval, and the p-value of Davison and Hinkley (1997, section 4.2), which includes the data."""
    tail = (1.0 - CONFIDENCE) / 2
    if not np.isfinite(drawn).all():
        return Difference(old, new, np.nan, np.nan, 1.0)
    low, high = np.quantile(drawn, [tail, 1.0 - tail])
    beyond = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    p = min(1.0, 2 * (1 + beyond) / (1 + len(drawn)))
    return Difference(old, new, float(low), float(high), p)


def mcnemar(old_right: NDArray[np.bool_], new_right: NDArray[np.bool_]) -> float:
    """Exact two-sided p-value of the hypothesis that two models are correct equally often.

    Only samples on which exactly one model is correct count. Under the hypothesis, each of them is a fair coin toss
    (McNemar 1947, Psychometrika 12; the exact binomial form).
    """
    lost, won = int((old_right & ~new_right).sum()), int((~old_right & new_right).sum())
    return min(1.0, 2 * _binomial_tail(min(lost, won), lost + won))


def _binomial_tail(at_most: int, of: int) -> float:
    """Probability of `at_most` heads or fewer in `of` tosses of a fair coin."""
    ways = (lgamma(of + 1) - lgamma(k + 1) - lgamma(of - k + 1) for k in range(at_most + 1))
    return sum(exp(way - of * log(2)) for way in ways)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for multiple tests (Holm 1979, Scandinavian Journal of Statistics 6), in their order."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected
