"""The order of samples depends on the job alone and is reached at any position at once."""

from __future__ import annotations

import numpy as np
import pytest

from launcher.worker.data.order import SampleOrder, permuted


@pytest.mark.parametrize("samples", [1, 2, 3, 5, 8, 17, 64, 100, 1000, 4097])
@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
@pytest.mark.parametrize("epoch", [0, 7])
def test_every_sample_comes_once_an_epoch(samples: int, seed: int, epoch: int) -> None:
    assert sorted(permuted(np.arange(samples), samples, seed, epoch)) == list(range(samples))


def test_a_position_is_the_same_alone_and_in_company() -> None:
    whole = permuted(np.arange(1000), 1000, seed=3, epoch=2)
    assert [permuted(np.array([p]), 1000, 3, 2)[0] for p in range(0, 1000, 97)] == whole[::97].tolist()


def test_a_position_of_a_vast_data_set_needs_no_list_of_it() -> None:
    samples = 10**15
    some = permuted(np.arange(samples - 64, samples), samples, seed=0, epoch=0)
    assert len(set(some.tolist())) == 64
    assert some.min() >= 0
    assert some.max() < samples


@pytest.mark.parametrize("change", [{"seed": 1}, {"epoch": 1}])
def test_seed_and_epoch_change_the_order(change: dict[str, int]) -> None:
    positions = np.arange(500)
    first = permuted(positions, 500, seed=0, epoch=0)
    other = permuted(positions, 500, **({"seed": 0, "epoch": 0} | change))
    assert (first == other).mean() < 0.05


def test_the_order_looks_random() -> None:
    """Neither positions nor neighbours are correlated, over many orders."""
    samples, positions = 256, np.arange(256)
    orders = np.stack([permuted(positions, samples, seed, 0) for seed in range(400)])
    by_position = [np.corrcoef(positions, order)[0, 1] for order in orders]
    by_neighbour = [np.corrcoef(order[1:], order[:-1])[0, 1] for order in orders]
    # Under a uniform permutation each correlation has a standard deviation of 1/√255, so their mean over 400
    # orders has one of 0.0031; four of those are allowed.
    assert abs(np.mean(by_position)) < 0.0126
    assert abs(np.mean(by_neighbour)) < 0.0126
    first = np.bincount(orders[:, 0] // 64, minlength=4)
    assert ((first - 100) ** 2 / 100).sum() < 16.3  # χ² with 3 degrees of freedom, p = 0.001


@pytest.mark.parametrize(("samples", "global_batch"), [(10, 4), (8, 4), (3, 8), (1, 1), (97, 16)])
def test_the_batches_of_an_epoch_are_its_order_cut_in_pieces(samples: int, global_batch: int) -> None:
    order = SampleOrder(samples, global_batch, seed=5)
    for epoch in range(3):
        steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
        pieces = [order.batch(step) for step in steps]
        assert all(len(piece) == global_batch for piece in pieces[:-1])
        assert np.concatenate(pieces).tolist() == permuted(np.arange(samples), samples, 5, epoch).tolist()
