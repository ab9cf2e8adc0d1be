"""Weights on their way to a model folder, from wherever they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Weight:
    """A tensor that will be written.

    dtype: as it is written
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class StoredWeight:
    """A tensor of a checkpoint on disk.

    pieces: reads it anew as consecutive runs of its elements in row-major order, one in memory at a time
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: Callable[[], Iterator[Tensor]]

    def written_in(self, dtype: torch.dtype) -> Weight:
        """What it becomes: floats in `dtype`, whole numbers as they are."""
        return Weight(self.name, self.shape, dtype if self.dtype.is_floating_point else self.dtype)
