"""Assign the samples of a global batch to ranks and micro-batches.

The cost of a micro-batch is the length of its longest sample times its number of samples. Samples are sorted by length
and split into as many consecutive groups as there are micro-batches, such that the largest cost is minimal. There is
little padding because neighbours have similar lengths, and the load is balanced because no group exceeds the bound. The
bound is at most the cost of equal counts, so a micro-batch fits into memory whenever `micro_batch` samples of full
length do. Every rank computes the same assignment from the lengths alone.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Deal = list[list[Indices]]
"""deal[rank][micro-batch]: samples, possibly none."""


def deal(samples: Indices, lengths: NDArray[np.int32], ranks: int, accumulation: int) -> Deal:
    """Assign `samples` to `ranks` × `accumulation` micro-batches.

    lengths: tokens of each of `samples`
    Every rank gets `accumulation` micro-batches; some are empty if there are too few samples.
    """
    by_length = np.argsort(-lengths, kind="stable")
    runs = [samples[by_length[first:last]] for first, last in pairwise(_cuts(lengths[by_length], ranks * accumulation))]
    return [[runs[_seat(rank, turn, ranks)] for turn in range(accumulation)] for rank in range(ranks)]


def deal_by_length(samples: Indices, lengths: NDArray[np.int32], ranks: int, micro_batch: int) -> Deal:
    """Assign samples so that all samples of a micro-batch have the same length, and nothing is padded.

    A micro-batch has at most as many tokens as `micro_batch` of the longest samples. All ranks get the same number of
    micro-batches; some may be empty.
    """
    by_length = np.argsort(-lengths, kind="stable")
    cuts = cut(lengths[by_length], micro_batch * int(lengths.max()), one_length=True)
    runs = [samples[by_length[first:last]] for first, last in pairwise(cuts)]
    turns = -(-len(runs) // ranks)
    runs += [np.empty(0, dtype=np.int64)] * (ranks * turns - len(runs))
    return [[runs[_seat(rank, turn, ranks)] for turn in range(turns)] for rank in range(ranks)]


def deal_packed(samples: Indices, lengths: NDArray[np.int32], ranks: int, rows: int, row_length: int) -> Deal:
    """Assign samples that are packed into rows of at most `row_length` tokens, `rows` of them in a micro-batch.

    All ranks get the same number of micro-batches. Filling one row after another with the samples in the returned order
    needs no more rows than counted here, since no other split of the same order needs fewer.
    """
    packed = [np.array(row) for row in _rows(lengths, row_length)]
    totals = np.array([lengths[row].sum() for row in packed], dtype=np.int32)
    turns = -(-len(packed) // (ranks * rows))
    hands = deal(np.arange(len(packed)), totals, ranks, turns)
    empty = np.empty(0, dtype=np.int64)
    return [[samples[np.concatenate([empty, *(packed[i] for i in mine)])] for mine in hand] for hand in hands]


def _rows(lengths: NDArray[np.int32], room: int) -> list[list[int]]:
    """The samples of each row, by first-fit decreasing bin packing."""
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
    """The rank's group in a turn: groups of similar cost share a turn, and every second turn is reversed (a snake)."""
    return turn * ranks + (rank if turn % 2 == 0 else ranks - 1 - rank)


def _cuts(lengths: NDArray[np.int32], runs: int) -> list[int]:
    """Ends of `runs` consecutive groups of descending `lengths` with the smallest maximum cost."""
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
    """Ends of consecutive groups of descending `lengths`, each as large as possible.

    bound: maximum cost of a group, its longest sample times its number of samples
    one_length: whether all samples of a group must have the same length
    """
    ends = [0]
    while ends[-1] < len(lengths):
        first = ends[-1]
        last = min(len(lengths), first + bound // int(lengths[first]))
        if one_length:
            last = min(last, int(np.searchsorted(-lengths, -lengths[first], side="right")))
        ends.append(last)
    return ends
