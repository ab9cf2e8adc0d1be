"""What ranks say to each other."""

from __future__ import annotations

import pytest
import torch

from launcher.worker.rank.world import World
from tests.worlds import Worlds


def talk(rank: int, size: int) -> tuple[list[float], str | None]:
    world = World(rank, rank, size)
    total = world.sum([rank, 1 + 1e-12])
    said = world.from_first("a word" if world.is_first else None)
    world.wait()
    return total.tolist(), said


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_sums_are_in_float64_and_rank_0_is_heard(size: int, worlds: Worlds) -> None:
    for total, said in worlds.run(size, talk):
        assert total == [sum(range(size)), pytest.approx(size * (1 + 1e-12), rel=1e-15)]
        assert said == "a word"


def test_what_only_measures_rounds_to_tf32_no_more_than_training_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with World().joined(timeout_minutes=1):
        assert not torch.backends.cudnn.allow_tf32


def refuse(rank: int, size: int) -> None:
    if rank == 1:
        raise ValueError("rank 1 had enough")


def test_a_failing_rank_fails_the_test_with_its_own_words(worlds: Worlds) -> None:
    with pytest.raises(AssertionError, match="ValueError: rank 1 had enough"):
        worlds.run(2, refuse)
    assert len(worlds.run(2, talk)) == 2
