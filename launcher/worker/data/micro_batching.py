"""Dealing the samples of a global batch to ranks and micro-batches.

A micro-batch costs its longest sample times its count. The deal sorts by length and cuts the sorted
samples into as many runs as there are micro-batches, so that the dearest run is as cheap as it can be:
padding is small because neighbours are alike, and the load is even because no run may exceed the bound.
The bound is never above what equal counts would cost, so a micro-batch fits wherever
`micro_batch` samples of full length do. Every rank computes the same deal from the lengths alone.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Deal = list[list[Indices]]
"""deal[rank][micro-batch]: samples, possibly none."""


def deal(samples: Indices, lengths: NDArray[np.int32], ranks: int, accumulation: int) -> Deal:
    """Deal `samples` to `ranks` × `accumulation` micro-batches.

    lengths: tokens of each of `samples`
    Every rank gets `accumulation` micro-batches, of which some hold no sample when there are too few.
    """
    by_length = np.argsort(-lengths, kind="stable")
    runs = [samples[by_length[first:last]] for first, last in pairwise(_cuts(lengths[by_length], ranks * accumulation))]
    return [[runs[_seat(rank, turn, ranks)] for turn in range(accumulation)] for rank in range(ranks)]


def deal_by_length(samples: Indices, lengths: NDArray[np.int32], ranks: int, micro_batch: int) -> Deal:
    """Deal samples so that each micro-batch holds samples of one length, and nothing is padded.

    A micro-batch has at most as many tokens as `micro_batch` of the longest samples. Every rank gets as many
    micro-batches as that takes, of which some hold no sample.
    """
    by_length = np.argsort(-lengths, kind="stable")
    cuts = cut(lengths[by_length], micro_batch * int(lengths.max()), one_length=True)
    runs = [samples[by_length[first:last]] for first, last in pairwise(cuts)]
    turns = -(-len(runs) // ranks)
    runs += [np.empty(0, dtype=np.int64)] * (ranks * turns - len(runs))
    return [[runs[_seat(rank, turn, ranks)] for turn in range(turns)] for rank in range(ranks)]


def deal_packed(samples: Indices, lengths: NDArray[np.int32], ranks: int, rows: int, row_length: int) -> Deal:
    """Deal samples that are laid into rows of at most `row_length` tokens, `rows` of them in a micro-batch.

    Every rank gets as many micro-batches as that takes. Filling one row after another with the samples in the order
    given here needs no more rows than were counted, since no cut of the same order needs fewer.
    """
    packed = [np.array(row) for row in _rows(lengths, row_length)]
    totals = np.array([lengths[row].sum() for row in packed], dtype=np.int32)
    turns = -(-len(packed) // (ranks * rows))
    hands = deal(np.arange(len(packed)), totals, ranks, turns)
    empty = np.empty(0, dtype=np.int64)
    return [[samples[np.concatenate([empty, *(packed[i] for i in mine)])] for mine in hand] for hand in hands]


def _rows(lengths: NDArray[np.int32], room: int) -> list[list[int]]:
    """The samples of each row: the longest first, each into the first row that has room for it."""
    rows: list[list[int]] = []
    left: list[int] = []
    for sample in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[sample])
        row = next((number for number, free in enumerate(left) if free >= length), None)
        if row is None:
            rows.append([])
            left.append(room)
            row = len(rows) - 1
        rows[row].append(sample)
        left[row] -= length
    return rows


def _seat(rank: int, turn: int, ranks: int) -> int:
    """Runs of like cost fall on the same turn; every second turn the direction is reversed (a snake)."""
    return turn * ranks + (rank if turn % 2 == 0 else ranks - 1 - rank)


def _cuts(lengths: NDArray[np.int32], runs: int) -> list[int]:
    """Ends of `runs` runs over descending `lengths` whose dearest run is as cheap as possible."""
    low, high = int(lengths[0]), int(lengths[0]) * -(-len(lengths) // runs)
    while low < high:
        middle = (low + high) // 2
        if len(cut(lengths, middle)) - 1 <= runs:
            high = middle
        else:
            low = middle + 1
    ends = cut(lengths, high)
    return ends + [len(lengths)] * (runs + 1 - len(ends))


def cut(lengths: NDArray[np.int32], bound: int, *, one_length: bool = False) -> list[int]:
    """Ends of runs over descending `lengths`, each as long as it can be.

    bound: what a run may cost, its longest sample times its count
    one_length: whether a run ends where a shorter sample comes
    """
    ends = [0]
    while ends[-1] < len(lengths):
        first = ends[-1]
        last = min(len(lengths), first + bound // int(lengths[first]))
        if one_length:
            last = min(last, int(np.searchsorted(-lengths, -lengths[first], side="right")))
        ends.append(last)
    return ends
