"""The seed of dropout, which every seed that a job may name must give."""

from __future__ import annotations

import pytest
import torch

from launcher.worker.training.loop import dropout_seed


@pytest.mark.parametrize("seed", [0, 1, 2**28, 2**32 - 1])
def test_torch_takes_it_and_steps_and_ranks_differ(seed: int) -> None:
    seeds = [dropout_seed(seed, step, rank) for step in range(4) for rank in range(4)]
    assert len(set(seeds)) == 16
    for each in seeds:
        torch.manual_seed(each)
