"""Several sets are drawn from in their shares, by the seed and the step alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from launcher.worker.data.mixing import CyclicOrder, MixedOrder, rounded, shares_of


def drawn(order: MixedOrder, epochs: int) -> np.ndarray:
    return np.concatenate([order.batch(step) for step in range(epochs * order.steps_per_epoch)])


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("sizes", [(100, 7), (5, 5, 90), (1, 1), (64, 3, 200)])
def test_each_epoch_draws_each_set_in_its_share(alpha: float, sizes: tuple[int, ...]) -> None:
    total = sum(sizes)
    shares = shares_of(sizes, alpha, None)
    order = MixedOrder(sizes, shares, total, 16, seed=3)
    starts = np.cumsum([0, *sizes])
    for epoch in range(3):
        steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
        which = np.searchsorted(starts, np.concatenate([order.batch(step) for step in steps]), side="right") - 1
        counts = np.bincount(which, minlength=len(sizes))
        assert counts.sum() == total
        assert np.abs(counts - np.array(shares) * total).max() <= 1


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_a_set_is_gone_through_evenly(alpha: float) -> None:
    sizes = (50, 8)
    order = MixedOrder(sizes, shares_of(sizes, alpha, None), 58, 16, seed=1)
    times = Counter(drawn(order, 6).tolist())
    for first, last in ((0, 50), (50, 58)):
        counts = [times[place] for place in range(first, last)]
        assert max(counts) - min(counts) <= 1, "none comes again before all others of its set came"


def test_shares_follow_sizes_or_weights() -> None:
    assert shares_of([90, 10], 1.0, None) == pytest.approx([0.9, 0.1])
    assert shares_of([90, 10], 0.0, None) == pytest.approx([0.5, 0.5])
    assert shares_of([81, 16], 0.5, None) == pytest.approx([9 / 13, 4 / 13])
    assert shares_of([90, 10], 1.0, [1, 3]) == pytest.approx([0.25, 0.75])
    assert rounded([1 / 3, 1 / 3, 1 / 3], 100).tolist() == [34, 33, 33]


def test_the_seed_decides_and_any_step_is_reached_at_once() -> None:
    one, again, other = (MixedOrder((40, 9), (0.6, 0.4), 49, 8, seed) for seed in (5, 5, 6))
    assert [one.batch(step).tolist() for step in (17, 3)] == [again.batch(step).tolist() for step in (17, 3)]
    assert one.batch(17).tolist() != other.batch(17).tolist()


@pytest.mark.parametrize(("samples", "batch"), [(37, 16), (5, 16), (16, 16), (1, 3)])
def test_the_target_comes_round_evenly_whatever_the_step_is(samples: int, batch: int) -> None:
    order = CyclicOrder(samples, batch, seed=2)
    steps = [order.batch(step) for step in range(12)]
    assert all(len(step) == batch for step in steps)
    counts = np.bincount(np.concatenate(steps), minlength=samples)
    assert counts.max() - counts.min() <= 1
    first, second = (np.concatenate(steps)[number * samples : (number + 1) * samples] for number in (0, 1))
    assert sorted(first) == sorted(second) == list(range(samples))
    if samples > 5:
        assert first.tolist() != second.tolist(), "each round has an order of its own"
