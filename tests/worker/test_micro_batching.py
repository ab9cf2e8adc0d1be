"""A deal gives every sample once, wastes little and loads the ranks evenly."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from launcher.worker.data.micro_batching import deal, deal_by_length, deal_packed

GRID = list(itertools.product([1, 2, 3, 7, 16, 33], [1, 2, 3, 4], [1, 2, 5]))


def lengths_of(samples: int, seed: int = 0) -> NDArray[np.int32]:
    """Ragged lengths such as tokenised sentences have."""
    return (np.random.default_rng(seed).gamma(3, 8, samples).astype(np.int32) + 2).clip(max=64)


def cost(lengths: NDArray[np.int32], micro_batch: NDArray[np.int64]) -> int:
    """Tokens after padding."""
    return len(micro_batch) * int(lengths[micro_batch].max()) if len(micro_batch) else 0


@pytest.mark.parametrize(("samples", "ranks", "accumulation"), GRID)
def test_every_sample_is_dealt_once(samples: int, ranks: int, accumulation: int) -> None:
    ids = np.arange(samples) * 3 + 1
    dealt = deal(ids, lengths_of(samples), ranks, accumulation)
    assert [len(hand) for hand in dealt] == [accumulation] * ranks
    assert sorted(np.concatenate([m for hand in dealt for m in hand])) == ids.tolist()


@pytest.mark.parametrize(("samples", "ranks", "accumulation"), GRID)
def test_none_costs_more_than_equal_counts_would(samples: int, ranks: int, accumulation: int) -> None:
    lengths = lengths_of(samples)
    equal = -(-samples // (ranks * accumulation)) * int(lengths.max())
    dealt = deal(np.arange(samples), lengths, ranks, accumulation)
    assert max(cost(lengths, m) for hand in dealt for m in hand) <= equal


@pytest.mark.parametrize("runs", [2, 3, 4])
def test_the_dearest_micro_batch_is_as_cheap_as_any_cut_allows(runs: int) -> None:
    lengths = lengths_of(9, seed=runs)
    falling = np.sort(lengths)[::-1]
    best = min(
        max(
            (last - first) * int(falling[first]) if last > first else 0
            for first, last in itertools.pairwise([0, *cuts, 9])
        )
        for cuts in itertools.combinations_with_replacement(range(10), runs - 1)
    )
    dealt = deal(np.arange(9), lengths, runs, 1)
    assert max(cost(lengths, m) for hand in dealt for m in hand) == best


def test_sorted_micro_batches_pad_less_than_random_ones() -> None:
    sorted_cost = random_cost = 0
    for seed in range(50):
        lengths = lengths_of(64, seed)
        dealt = deal(np.arange(64), lengths, 2, 4)
        sorted_cost += sum(cost(lengths, m) for hand in dealt for m in hand)
        random_cost += sum(cost(lengths, m) for m in np.arange(64).reshape(8, 8))
    assert sorted_cost < 0.75 * random_cost


def test_ranks_get_even_loads() -> None:
    slowest = total = 0
    for seed in range(50):
        lengths = lengths_of(64, seed)
        loads = [sum(cost(lengths, m) for m in hand) for hand in deal(np.arange(64), lengths, 4, 2)]
        slowest, total = slowest + max(loads), total + sum(loads)
    assert slowest < 1.1 * total / 4


def test_a_rank_may_be_left_without_samples() -> None:
    dealt = deal(np.arange(2), np.array([5, 5], dtype=np.int32), 4, 1)
    assert sorted(len(hand[0]) for hand in dealt) == [0, 0, 1, 1]


@pytest.mark.parametrize(("samples", "ranks", "rows"), list(itertools.product([1, 7, 33, 120], [1, 2, 3], [1, 2, 5])))
def test_packed_samples_are_dealt_once_and_fill_no_more_rows_than_allowed(samples: int, ranks: int, rows: int) -> None:
    lengths, ids = lengths_of(samples), np.arange(samples) * 3 + 1
    dealt = deal_packed(ids, lengths, ranks, rows, 64)
    assert len({len(hand) for hand in dealt}) == 1
    assert sorted(np.concatenate([m for hand in dealt for m in hand])) == ids.tolist()
    filled = [rows_filled([int(lengths[(i - 1) // 3]) for i in m], 64) for hand in dealt for m in hand]
    assert max(filled) * 64 <= max(rows * 64, 64)
    assert len(dealt[0]) <= len(deal(ids, lengths, ranks, -(-samples // (ranks * rows)))[0])


def rows_filled(lengths: list[int], room: int) -> int:
    """Rows that it takes to lay samples down in their order."""
    rows, left = 0, 0
    for length in lengths:
        if length > left:
            rows, left = rows + 1, room
        left -= length
    return rows


def test_packing_takes_fewer_micro_batches() -> None:
    lengths = lengths_of(64)
    assert len(deal_packed(np.arange(64), lengths, 2, 4, 64)[0]) <= 4 < len(deal(np.arange(64), lengths, 2, 8)[0])


@pytest.mark.parametrize(("samples", "ranks", "micro_batch"), GRID)
def test_micro_batches_of_one_length_hold_every_sample_once(samples: int, ranks: int, micro_batch: int) -> None:
    ids, lengths = np.arange(samples) * 3 + 1, lengths_of(samples).clip(max=9)
    dealt = deal_by_length(ids, lengths, ranks, micro_batch)
    assert len({len(hand) for hand in dealt}) == 1
    assert sorted(np.concatenate([m for hand in dealt for m in hand])) == ids.tolist()
    length_of = dict(zip(ids.tolist(), lengths.tolist(), strict=True))
    for hand in dealt:
        for one in hand:
            assert len({length_of[sample] for sample in one.tolist()}) <= 1
            assert sum(length_of[sample] for sample in one.tolist()) <= micro_batch * int(lengths.max())


def test_samples_of_one_length_share_micro_batches_as_full_as_they_may_be() -> None:
    dealt = deal_by_length(np.arange(10), np.array([4] * 8 + [8] * 2, dtype=np.int32), 2, 2)
    assert [[one.tolist() for one in hand] for hand in dealt] == [[[8, 9], []], [[0, 1, 2, 3], [4, 5, 6, 7]]]
