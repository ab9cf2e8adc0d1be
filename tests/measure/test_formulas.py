"""Each measure equals what its definition gives when it is written out plainly, and is right at its ends."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu, multivariate_normal
from sklearn.covariance import ledoit_wolf_shrinkage

from launcher.measure.quality.label_errors import believe, label_errors, probe_of
from launcher.measure.quality.transferability import h_score, ledoit_wolf, logme, transferability
from launcher.measure.shift.a_distance import proxy_a_distance, wilson
from launcher.measure.shift.frequencies import length_move, word_moves
from launcher.measure.shift.mmd import mmd_test

Numbers = NDArray[np.float64]


def clouds(seed: int, samples: int = 300, size: int = 16, shift: float = 0.0) -> tuple[Numbers, Numbers]:
    draw = np.random.default_rng(seed)
    mix = draw.normal(size=(size, size))
    return draw.normal(size=(samples, size)) @ mix, (draw.normal(size=(samples, size)) + shift) @ mix


def test_the_a_distance_is_0_for_one_set_and_2_for_two() -> None:
    near, far = proxy_a_distance(*clouds(0)), proxy_a_distance(*clouds(0, shift=3.0))
    assert near.low == 0.0
    assert near.distance < 0.3
    assert far.distance == pytest.approx(2.0, abs=0.02)
    for found in (near, far, proxy_a_distance(*clouds(1, shift=0.2))):
        assert 0 <= found.low <= found.distance <= found.high <= 2
        assert found.distance == pytest.approx(max(0, 2 * (1 - 2 * found.error)))
        assert found.samples == 600


def test_the_a_distance_of_unequal_sets_is_that_of_equal_parts() -> None:
    one, other = clouds(2)
    found = proxy_a_distance(one, other[:100])
    assert found.samples == 200
    assert found.low == 0.0, "always naming the larger side would look like a gap"


def test_wilsons_interval_solves_its_equation() -> None:
    for share, samples in ((0.0, 20), (0.3, 50), (1.0, 7)):
        for end in wilson(share, samples):
            assert abs(share - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / samples), abs=1e-6)


def naive_mmd(one: Numbers, other: Numbers, width: float) -> float:
    def kernel(a: Numbers, b: Numbers) -> float:
        return math.exp(-float(((a - b) ** 2).sum()) / (2 * width**2))

    def mean(pairs: list[tuple[Numbers, Numbers]]) -> float:
        return sum(kernel(a, b) for a, b in pairs) / len(pairs)

    within = [mean(list(itertools.permutations(side, 2))) for side in (one, other)]
    return sum(within) - 2 * mean(list(itertools.product(one, other)))


def test_mmd_is_its_definition() -> None:
    one, other = clouds(3, samples=20, size=3, shift=0.5)
    other = other[:13]
    found = mmd_test(one, other)
    distances = [np.linalg.norm(a - b) for a, b in itertools.combinations([*one, *other], 2)]
    # the median of squares of an even count is not the square of the median
    assert found.width == pytest.approx(float(np.median(distances)), rel=1e-3)
    assert found.squared == pytest.approx(naive_mmd(one, other, found.width), abs=1e-12)


def test_mmds_p_value_is_small_for_two_sets_and_even_for_one() -> None:
    assert mmd_test(*clouds(4, samples=60, shift=1.0)).p_value == 0.001
    values = [mmd_test(*clouds(seed, samples=40, size=4)).p_value for seed in range(40)]
    assert 0.3 < float(np.mean(values)) < 0.7
    assert sum(value <= 0.05 for value in values) <= 7, "40 tries at 0.05 give more than 7 once in a thousand times"


def labelled(seed: int, samples: int = 120, size: int = 30, classes: int = 3) -> tuple[Numbers, NDArray[np.int64]]:
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, samples)
    return draw.normal(size=(samples, size)) + draw.normal(size=(classes, size))[labels] * 0.5, labels


@pytest.mark.parametrize(("samples", "size"), [(120, 30), (25, 60)])
def test_the_h_score_is_its_definition(samples: int, size: int) -> None:
    features, labels = labelled(0, samples, size)
    centred = features - features.mean(axis=0)
    alpha = ledoit_wolf_shrinkage(centred, assume_centered=True)
    assert ledoit_wolf(centred) == pytest.approx(alpha, rel=1e-9)
    covariance = np.zeros((size, size))
    between = np.zeros((size, size))
    for row, label in zip(centred, labels, strict=True):
        mean = centred[labels == label].mean(axis=0)
        covariance += np.outer(row, row) / samples
        between += np.outer(mean, mean) / samples
    shrunk = (1 - alpha) * covariance + alpha * covariance.trace() / size * np.eye(size)
    expected = ((1 - alpha) * np.linalg.inv(shrunk) @ between).trace()
    assert h_score(features, labels) == pytest.approx(expected, rel=1e-9)
    assert 0 < expected <= 2


def log_evidence(features: Numbers, target: Numbers, alpha: float, beta: float) -> float:
    """log p(y | F, α, β), whose weights are integrated out: a Gaussian of covariance I/β + FFᵀ/α."""
    covariance = np.eye(len(target)) / beta + features @ features.T / alpha
    return float(multivariate_normal(np.zeros(len(target)), covariance).logpdf(target))


@pytest.mark.parametrize(("samples", "size"), [(60, 8), (30, 50)])
def test_logme_is_the_largest_log_evidence(samples: int, size: int) -> None:
    features, labels = labelled(1, samples, size, classes=2)
    target = (labels == 1).astype(np.float64)
    found = logme(features, target[:, None])
    grid = [10**power for power in np.linspace(-3, 4, 57)]
    best = max((log_evidence(features, target, a, b), a, b) for a in grid for b in grid)
    finer = [10**power for power in np.linspace(-0.15, 0.15, 41)]
    expected = max(log_evidence(features, target, best[1] * a, best[2] * b) for a in finer for b in finer)
    assert found == pytest.approx(expected / samples, abs=2e-4)


@pytest.mark.parametrize("seed", range(4))
def test_logme_of_few_samples_that_many_features_tell_apart_is_that_without_noise(seed: int) -> None:
    features, labels = labelled(seed, samples=20, size=384, classes=2)
    features += 5.0
    features[:, 0] = 10 * labels
    target = (labels == 1).astype(np.float64)
    grid = [10**power for power in np.linspace(0, 6, 601)]
    expected = max(log_evidence(features, target, alpha, 1e12) for alpha in grid)
    assert logme(features, target[:, None]) == pytest.approx(expected / 20, abs=1e-3)


def test_scores_are_higher_for_features_that_say_more() -> None:
    features, labels = labelled(2)
    noise = np.random.default_rng(3).permutation(features)
    good, bad = transferability(features, labels), transferability(noise, labels)
    assert good.logme > bad.logme
    assert good.h_score is not None
    assert bad.h_score is not None
    assert good.most == 2
    assert good.h_score > bad.h_score
    assert transferability(features, features[:, 0] * 2 + 1).logme > transferability(noise, features[:, 0]).logme


def test_wrong_labels_are_found_where_the_probe_is_sure() -> None:
    features, labels = labelled(4, samples=400, classes=2)
    features += 2.0 * labels[:, None]
    names = ["ab"[label] for label in labels]
    wrong = set(range(0, 400, 10))
    for number in wrong:
        names[number] = {"a": "b", "b": "a"}[names[number]]
    names += ["rare", "rare"]
    believed = believe(np.concatenate([features, features[:2]]), names, np.arange(402, dtype=np.uint64))
    assert believed is not None
    assert believed.classes == ("a", "b"), "two samples are no five folds"
    assert probe_of(believed).accuracy == pytest.approx(0.9, abs=0.01)
    found = label_errors(believed)
    named = {one.number - 1 for one in found}
    assert named <= wrong
    assert len(named) >= 36
    assert all(one.label == names[one.number - 1] != one.suggested for one in found)
    assert [one.confidence for one in found] == sorted(one.confidence for one in found)
    assert believe(features, ["a"] * 400, np.arange(400, dtype=np.uint64)) is None


def test_a_copy_does_not_vouch_for_a_label() -> None:
    draw = np.random.default_rng(6)
    features, labels = draw.normal(size=(60, 200)), draw.integers(0, 2, 60)
    names, samples = ["ab"[label] for label in labels] * 5, np.tile(np.arange(60, dtype=np.uint64), 5)
    accuracy = []
    for fingerprints in (samples, np.arange(300, dtype=np.uint64)):
        believed = believe(np.tile(features, (5, 1)), names, fingerprints)
        assert believed is not None
        accuracy.append(probe_of(believed).accuracy)
    assert accuracy[0] < 0.75 < accuracy[1]


def test_words_that_move_are_named_with_their_log_odds() -> None:
    one = ["the flight was late"] * 30 + ["the seat was fine"] * 70
    other = ["The flight was late, FLIGHT!"] * 60 + ["the film"] * 40
    found = {move.word: move for move in word_moves(one, other)}
    flight = found["flight"]
    assert (flight.texts, flight.other_texts) == (30, 60)
    prior = 10 * 91 / 202
    cells = 60 + prior, 40 + 10 - prior, 30 + prior, 70 + 10 - prior
    assert flight.log_odds == pytest.approx(math.log((cells[0] / cells[1]) / (cells[2] / cells[3])))
    assert flight.z == pytest.approx(flight.log_odds / math.sqrt(sum(1 / cell for cell in cells)))
    assert found["seat"].z < 0 < found["film"].z
    assert "the" not in found, "it is in every text of both"
    assert {move.word for move in word_moves(["so it is"] * 100, ["so it is"] * 80 + ["http"] * 20)} >= {"http"}
    assert word_moves(one, one) == []
    assert word_moves([], []) == []


def test_lengths_are_compared_by_ranks() -> None:
    draw = np.random.default_rng(5)
    one, other = (["x" * n for n in draw.integers(low, 30, 50)] for low in (5, 10))
    found = length_move(one, other)
    expected = mannwhitneyu(
        [len(text) for text in other], [len(text) for text in one], method="asymptotic", use_continuity=False
    )
    assert found.longer == pytest.approx(expected.statistic / 2500)
    assert math.erfc(abs(found.z) / math.sqrt(2)) == pytest.approx(expected.pvalue)
    assert length_move(["ab"] * 3, ["cd"] * 4).z == 0.0
