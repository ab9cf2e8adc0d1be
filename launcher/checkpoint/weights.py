"""Descriptions of weights that are to be written to a model folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Weight:
    """A tensor to be written.

    dtype: that of the file
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

    pieces: reads it again as consecutive ranges of its elements in row-major order, one in memory at a time
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: Callable[[], Iterator[Tensor]]

    def written_in(self, dtype: torch.dtype) -> Weight:
        """The weight to be written: floats in `dtype`, integers unchanged."""
        return Weight(self.name, self.shape, dtype if self.dtype.is_floating_point else self.dtype)
