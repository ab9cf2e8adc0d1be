"""The importance-weighted score is a good estimate of what the target's labels would say, without them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from launcher.measure.compare.selection import (
    HEAVIEST,
    importance_weights,
    logistic_regression,
    lost_classes,
    weighted_mean,
)

Array = np.ndarray[Any, Any]


@pytest.mark.parametrize("penalty", [1e-3, 1e-1])
def test_logistic_regression_equals_scikit_learns(penalty: float) -> None:
    draw = np.random.default_rng(0)
    features = draw.normal(size=(300, 6))
    labels = (features[:, 0] + draw.normal(size=300) > 0).astype(float)
    counts = draw.uniform(0.5, 2.0, 300)
    weights, bias = logistic_regression(features, labels, counts, penalty)
    reference = LogisticRegression(C=1 / (penalty * counts.sum()), tol=1e-10, max_iter=10_000)
    reference.fit(features, labels, sample_weight=counts)
    assert weights == pytest.approx(reference.coef_[0], abs=1e-5)
    assert bias == pytest.approx(reference.intercept_[0], abs=1e-5)


def test_domains_that_are_wholly_apart_still_give_finite_weights() -> None:
    draw = np.random.default_rng(1)
    source, target, held = (draw.normal(shift, 0.1, (100, 3)) for shift in (0, 50, 0))
    weights = importance_weights(source, target, held, seed=0)
    assert np.isfinite(weights).all()
    assert (weights <= HEAVIEST).all()


def shifted(seed: int) -> tuple[Array, Array, Array, Array]:
    """Source, target and held-out source features, and a function of them that a model gets right."""
    draw = np.random.default_rng(seed)
    source, held = draw.normal(0, 1, (1000, 4)), draw.normal(0, 1, (1000, 4))
    target = draw.normal(0, 1, (1000, 4)) + np.array([1.0, 0, 0, 0])
    return source, target, held, draw.random((1000, 2))


def right(features: Array, chance: Array) -> Array:
    """A model that is better the smaller the first feature is, so that the shift hurts it."""
    return (chance < 1 / (1 + np.exp(1.5 * features[:, 0] - 1))).astype(float)


def test_the_weighted_mean_is_near_the_truth_of_the_target_where_the_plain_one_is_not() -> None:
    plain, weighted, truths, covered = [], [], [], 0
    for seed in range(20):
        source, target, held, chance = shifted(seed)
        truths.append(right(target, chance[:, 0]).mean())
        values = right(held, chance[:, 1])
        found = weighted_mean(values, importance_weights(source, target, held, seed))
        plain.append(values.mean())
        weighted.append(found.value)
        covered += abs(found.value - np.mean(truths[-1])) < 3 * found.error + 0.03
        assert 100 < found.worth < 1000
    assert abs(np.mean(weighted) - np.mean(truths)) < 0.03
    assert abs(np.mean(plain) - np.mean(truths)) > 0.15
    assert covered >= 18


def test_weights_are_1_on_average_however_many_features_there_are_to_overfit() -> None:
    for seed in range(3):
        draw = np.random.default_rng(seed)
        source, held = draw.normal(size=(600, 200)), draw.normal(size=(600, 200))
        target = draw.normal(size=(600, 200)) + 0.1
        assert importance_weights(source, target, held, seed).mean() == pytest.approx(1, abs=0.15)


def test_domains_that_are_alike_weigh_all_samples_alike() -> None:
    draw = np.random.default_rng(2)
    source, target, held = (draw.normal(size=(1000, 4)) for _ in range(3))
    weights = importance_weights(source, target, held, seed=0)
    assert weights.mean() == pytest.approx(1, abs=0.05)
    assert weights.std() < 0.2


def test_the_control_variate_equals_its_formula_and_lowers_the_variance() -> None:
    plain, controlled = [], []
    for seed in range(200):
        draw = np.random.default_rng(seed)
        weights = draw.exponential(1.0, 300)
        values = 0.7 + 0.1 * draw.normal(size=300)
        weighted = weights * values
        eta = -np.cov(weighted, weights, bias=True)[0, 1] / weights.var()
        found = weighted_mean(values, weights)
        assert found.value == pytest.approx(weighted.mean() + eta * weights.mean() - eta)
        plain.append(weighted.mean())
        controlled.append(found.value)
    assert np.std(controlled) < 0.3 * np.std(plain)
    assert np.mean(controlled) == pytest.approx(0.7, abs=0.005)
    assert weighted_mean(np.array([1.0, 0.0]), np.ones(2)).value == 0.5


def test_a_class_that_is_hardly_answered_any_more_is_lost() -> None:
    trained = np.array([480.0, 480.0, 40.0])
    assert lost_classes(np.array([500.0, 490.0, 10.0]), trained) == []
    assert lost_classes(np.array([990.0, 10.0, 0.0]), trained) == [1]  # the rare one is too rare to tell
    assert lost_classes(np.array([0.0, 0.0, 1000.0]), trained) == [0, 1]
