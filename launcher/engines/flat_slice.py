"""A contiguous range of a tensor's elements, which is a ZeRO shard, in a form that checkpoints can store.

Checkpoints store rectangular boxes. A contiguous range of a tensor of n dimensions is at most 2n-1 boxes: the rest of a
row, whole rows, the beginning of a row, and so on inward. Each box is a view, so nothing is copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType

Box = tuple[tuple[int, ...], tuple[int, ...]]
"""Offsets and sizes."""


@dataclass(frozen=True)
class FlatSlice:
    """Elements `start` to `start + len(local)` of a tensor of `shape`, in row-major order.

    local: 1-D, shares memory with the live tensor
    `torch.distributed.checkpoint` calls the methods with underscores to get the shards of an object.
    """

    local: Tensor
    shape: torch.Size
    start: int

    def size(self) -> torch.Size:
        """Shape of the whole tensor."""
        return self.shape

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the elements."""
        return self.local.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return self.local.nbytes

    def like(self, dtype: torch.dtype) -> FlatSlice:
        """An uninitialised slice of the same range."""
        return FlatSlice(torch.empty_like(self.local, dtype=dtype), self.shape, self.start)

    def copy(self) -> FlatSlice:
        """The same elements in host memory."""
        return FlatSlice(self.local.to("cpu", copy=True), self.shape, self.start)

    def part(self, index: MetadataIndex) -> Tensor:
        """The box at the offset of `index`."""
        assert index.offset is not None
        return next(box for offsets, box in self.boxes() if offsets == tuple(index.offset))

    def boxes(self) -> Iterator[tuple[tuple[int, ...], Tensor]]:
        """Offsets of each box, and the view of `local` that it covers."""
        done = 0
        for offsets, sizes in boxes(tuple(self.shape), self.start, self.start + self.local.numel()):
            count = prod(sizes)
            yield offsets, self.local.narrow(0, done, count).view(sizes)
            done += count

    def __create_write_items__(self, fqn: str, _: Any) -> list[WriteItem]:
        properties = TensorProperties.create_from_tensor(self.local)
        return [
            WriteItem(
                index=MetadataIndex(fqn, torch.Size(offsets)),
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(_chunk(offsets, box), properties, self.shape),
            )
            for offsets, box in self.boxes()
        ]

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        return [_chunk(offsets, box) for offsets, box in self.boxes()]


def boxes(shape: tuple[int, ...], start: int, stop: int) -> Iterator[Box]:
    """The boxes that cover elements `start` to `stop` of a tensor of `shape`, in order."""
    if start >= stop:
        return
    if len(shape) <= 1:
        yield ((start,), (stop - start,)) if shape else ((), ())
        return
    row = prod(shape[1:])
    first, last = -(-start // row), stop // row  # whole rows
    if first > last:
        yield from _in_row(shape, last, start - last * row, stop - last * row)
        return
    yield from _in_row(shape, first - 1, start - (first - 1) * row, row)
    if first < last:
        yield (first, *[0] * (len(shape) - 1)), (last - first, *shape[1:])
    yield from _in_row(shape, last, 0, stop - last * row)


def _in_row(shape: tuple[int, ...], row: int, start: int, stop: int) -> Iterator[Box]:
    for offsets, sizes in boxes(shape[1:], start, stop):
        yield (row, *offsets), (1, *sizes)


def _chunk(offsets: tuple[int, ...], box: Tensor) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(torch.Size(offsets), box.shape)
