"""A run of elements is cut into few boxes, which together are the run, in order."""

from __future__ import annotations

from math import prod
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from launcher.checkpoint.planners import LoadPlanner, SavePlanner
from launcher.engines.flat_slice import FlatSlice, boxes


@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (2, 3, 4), (2, 2, 2, 3), (4, 1, 2)])
def test_every_run_is_covered_in_order_by_few_boxes(shape: tuple[int, ...]) -> None:
    whole = torch.arange(prod(shape)).reshape(shape)
    for start in range(whole.numel() + 1):
        for stop in range(start, whole.numel() + 1):
            found = list(boxes(shape, start, stop))
            assert len(found) <= max(1, 2 * len(shape) - 1)
            elements = [value for offsets, sizes in found for value in box_of(whole, offsets, sizes).flatten().tolist()]
            assert elements == list(range(start, stop))


def box_of(whole: Tensor, offsets: tuple[int, ...], sizes: tuple[int, ...]) -> Tensor:
    for dimension, (offset, size) in enumerate(zip(offsets, sizes, strict=True)):
        whole = whole.narrow(dimension, offset, size)
    return whole


def test_parts_share_the_memory_of_the_run() -> None:
    run = FlatSlice(torch.zeros(6), torch.Size((3, 4)), start=5)
    run.part(MetadataIndex("", torch.Size((1, 1)))).fill_(1)
    assert run.local.tolist() == [1, 1, 1, 0, 0, 0]
    with pytest.raises(StopIteration):
        run.part(MetadataIndex("", torch.Size((0, 0))))


@pytest.mark.parametrize("start", range(8))
def test_a_whole_tensor_is_read_in_part_and_a_part_is_written(start: int, tmp_path: Path) -> None:
    whole = torch.randn(3, 2, 4)
    save({"w": whole}, checkpoint_id=tmp_path / "whole", no_dist=True)
    first = FlatSlice(torch.empty(start + 9), whole.shape, 0)
    rest = FlatSlice(torch.empty(24 - 9 - start), whole.shape, start + 9)
    for run in (first, rest):
        load({"w": run}, checkpoint_id=tmp_path / "whole", planner=LoadPlanner(), no_dist=True)
    assert torch.equal(torch.cat([first.local, rest.local]), whole.flatten())
    save({"w": first.like(torch.float32)}, checkpoint_id=tmp_path / "part", planner=SavePlanner(), no_dist=True)
    assert first.nbytes == 4 * (start + 9)


def test_a_copy_is_another_memory() -> None:
    run = FlatSlice(torch.zeros(3), torch.Size((3,)), 0)
    copy = run.copy()
    run.local.fill_(1)
    assert copy.local.tolist() == [0, 0, 0]
