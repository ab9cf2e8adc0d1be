"""Paired comparisons equal references, and say what they promise to say as often as they promise it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from scipy import stats

from launcher.measure.compare.paired import (
    CELLS_AT_ONCE,
    Difference,
    draws_for,
    holm,
    mcnemar,
    paired_bootstrap,
    resamples,
)
from launcher.measure.compare.verdict import Comparison, Scale, decide
from launcher.models.parts.classification_metrics import METRICS, of_samples

Array = np.ndarray[Any, Any]


def means(values: Array, weights: Array) -> Mapping[str, Array]:
    """One metric, the mean of one column."""
    return {"mean": weights @ values[:, 0] / weights.sum(-1)}


def classified(values: Array, weights: Array) -> Mapping[str, Array]:
    """All classification metrics of columns label and prediction."""
    counts = of_samples(values[:, 0], values[:, 1], weights)
    return {name: metric(counts) for name, metric in METRICS.items()}


def answers(draw: np.random.Generator, labels: Array, right: float, classes: int) -> Array:
    """Labels beside predictions that are right with some probability."""
    guesses = np.where(draw.random(len(labels)) < right, labels, draw.integers(0, classes, len(labels)))
    return np.stack([labels, guesses], axis=1).astype(float)


def test_each_resample_holds_as_many_samples_as_there_are_and_memory_is_bounded() -> None:
    for samples, draws in ((1, 5), (7, 100), (30_001, 100)):
        parts = list(resamples(samples, seed=0, draws=draws))
        assert sum(len(part) for part in parts) == draws
        assert all(part.size <= max(CELLS_AT_ONCE, samples) for part in parts)
        assert all((part.sum(1) == samples).all() for part in parts)
    counts = np.concatenate(list(resamples(50, seed=1, draws=4000)))
    assert counts.var() == pytest.approx(1 - 1 / 50, rel=0.02)  # of a multinomial with 50 equal cells


def test_there_are_fewer_resamples_of_very_many_samples() -> None:
    assert [draws_for(samples) for samples in (1, 200_000, 400_000, 10**8)] == [10_000, 10_000, 5_000, 1_000]


def test_a_difference_of_means_equals_scipys_paired_bootstrap() -> None:
    draw = np.random.default_rng(0)
    old = draw.normal(0, 1, (120, 1))
    new = old + draw.normal(0.1, 0.5, (120, 1))
    found = paired_bootstrap(new, {"old": old}, means, seed=0)["old"]["mean"]
    reference = stats.bootstrap(
        (new[:, 0], old[:, 0]), lambda one, other: np.mean(one) - np.mean(other), paired=True, method="percentile",
        n_resamples=10_000, vectorized=False, rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    assert found.change == pytest.approx(float((new - old).mean()))
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=0.005)


@pytest.mark.parametrize("classes", [2, 5])
def test_metrics_of_resamples_equal_those_of_repeated_samples(classes: int) -> None:
    draw = np.random.default_rng(classes)
    labels = draw.integers(0, classes, 60)
    old, new = (answers(draw, labels, share, classes) for share in (0.5, 0.7))
    found = paired_bootstrap(new, {"old": old}, classified, seed=3, draws=200)["old"]
    weights = np.concatenate(list(resamples(60, seed=3, draws=200))).astype(int)
    for metric in METRICS:
        naive = []
        for row in weights:
            again = [values[np.repeat(np.arange(60), row)] for values in (new, old)]
            one, other = (float(classified(some, np.ones((1, 60)))[metric][0]) for some in again)
            naive.append(one - other)
        low, high = np.quantile(naive, [0.025, 0.975])
        assert (found[metric].low, found[metric].high) == pytest.approx((low, high), abs=1e-12)
        beyond = min((np.array(naive) <= 0).sum(), (np.array(naive) >= 0).sum())
        assert found[metric].p == pytest.approx(min(1, 2 * (1 + beyond) / 201))


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    held = 0
    for number in range(300):
        draw = np.random.default_rng(number)
        common = draw.random(200)
        old, new = (
            (common < 0.7).astype(float)[:, None],
            (common + draw.normal(0, 0.2, 200) < 0.75).astype(float)[:, None],
        )
        found = paired_bootstrap(new, {"old": old}, means, seed=number, draws=500)["old"]["mean"]
        held += found.low <= TRUTH <= found.high
    assert 0.91 <= held / 300 <= 0.98


TRUTH = float(
    np.mean(np.random.default_rng(999).random(2_000_000) + np.random.default_rng(998).normal(0, 0.2, 2_000_000) < 0.75)
    - 0.7
)
"""P(u + e < 0.75) - P(u < 0.7) with u uniform and e normal, by simulation."""


def test_the_same_seed_gives_the_same_and_several_arms_are_as_each_alone() -> None:
    draw = np.random.default_rng(5)
    new, one, other = (draw.random((40, 1)) for _ in range(3))
    both = paired_bootstrap(new, {"one": one, "other": other}, means, seed=2, draws=300)
    assert both["one"] == paired_bootstrap(new, {"one": one}, means, seed=2, draws=300)["one"]
    assert both["other"] != both["one"]


def test_what_is_no_number_gives_no_interval() -> None:
    new = np.array([[1.0], [np.nan], [2.0]])
    found = paired_bootstrap(new, {"old": np.ones((3, 1))}, means, seed=0, draws=50)["old"]["mean"]
    assert isinstance(found, Difference)
    assert np.isnan([found.new, found.low, found.high]).all()
    assert found.p == 1.0, "nor is it a reason to say that there is a difference"


def test_sets_of_unequal_size_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="cannot be paired with 3"):
        paired_bootstrap(np.ones((3, 1)), {"old": np.ones((2, 1))}, means, seed=0)


@pytest.mark.parametrize("case", range(40))
def test_mcnemar_equals_scipys_binomial_test(case: int) -> None:
    draw = np.random.default_rng(case)
    samples = int(draw.integers(1, 3000))
    old, new = draw.random(samples) < 0.8, draw.random(samples) < draw.uniform(0.7, 0.9)
    lost, won = int((old & ~new).sum()), int((~old & new).sum())
    expected = stats.binomtest(lost, lost + won).pvalue if lost + won else 1.0
    assert mcnemar(old, new) == pytest.approx(expected, rel=1e-9)


def test_holm_equals_its_definition() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # Holm's own steps by hand
    assert holm([]) == []
    draw = np.random.default_rng(0)
    for _ in range(50):
        p = draw.random(int(draw.integers(1, 12))) ** 3
        order = np.argsort(p)
        naive = np.empty(len(p))
        for rank, place in enumerate(order):
            naive[place] = max(min(1.0, (len(p) - i) * p[order[i]]) for i in range(rank + 1))
        assert holm(p.tolist()) == pytest.approx(naive.tolist())


def test_models_that_are_equally_good_are_seldom_adopted() -> None:
    """The whole decision, over 400 pairs of models of which neither is better."""
    adopted = 0
    for number in range(400):
        draw = np.random.default_rng(number)
        labels = draw.integers(0, 2, 150)
        old, new = (answers(draw, labels, 0.7, 2) for _ in range(2))
        found = paired_bootstrap(new, {"old": old}, classified, seed=number, draws=500)["old"]["accuracy"]
        p = mcnemar(old[:, 0] == old[:, 1], new[:, 0] == new[:, 1])
        compared = Comparison(
            "set", "old", "decides", 150, found.old, found.new, found.low, found.high, p, "exact McNemar"
        )  # fmt: skip
        adopted += decide([compared], Scale("accuracy", lower_is_better=False, margin=0.01)).decision == "adopt"
    assert adopted / 400 <= 0.025
