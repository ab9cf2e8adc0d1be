"""How much memory a process keeps through the whole of training, counted from the files' headers alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path

from launcher.job.pretrained import Pretrained, safetensors_files
from launcher.job.schema import Optimizer

FLOAT32 = 4
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
DROPPED_HEADS = ("lm_head.",)
"""Weights of the file that a classifier leaves out, and that are too large to be counted with the rest."""


@dataclass(frozen=True)
class StateMemory:
    """Bytes of one process. Activations come on top, and for fsdp the block that is whole while it computes."""

    weights: int
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        """All three."""
        return self.weights + self.gradients + self.optimizer

    def __str__(self) -> str:
        parts = f"weights {mebibytes(self.weights)}, gradients {mebibytes(self.gradients)}"
        return f"{mebibytes(self.total)} a process ({parts}, optimizer {mebibytes(self.optimizer)}) and activations"


def state_memory(
    parameters: int, optimizer: Optimizer, engine: str, ranks: int, zero_stage: int | None = None
) -> StateMemory:
    """Of a model with so many parameters, all of them learning in fp32.

    DeepSpeed's optimizer steps a flat copy of its slice of the weights, which comes on top of the weights.
    """
    whole, part = FLOAT32 * parameters, FLOAT32 * ceil(parameters / ranks)
    moments = 2 if optimizer.name == "adamw" else int(optimizer.momentum > 0)
    if engine == "fsdp":
        return StateMemory(part, part, moments * part)
    if zero_stage is not None:
        weights = part if zero_stage == 3 else whole
        return StateMemory(weights + part, whole if zero_stage == 1 else part, moments * part)
    return StateMemory(whole, whole, moments * whole)


def count_parameters(pretrained: Pretrained) -> int | None:
    """Parameters in a model's safetensors files; None where they are not on this machine or in another format."""
    files = safetensors_files(pretrained.kind, Path(pretrained.location))
    if not files:
        return None
    return sum(_count(file) for file in files)


def mebibytes(size: int) -> str:
    """`87 MiB`, or `8.1 GiB` from 10 GiB on."""
    return f"{size / 2**30:.1f} GiB" if size >= 10 * 2**30 else f"{size / 2**20:.0f} MiB"


def _count(file: Path) -> int:
    """The header is JSON behind its own length, a little-endian 64-bit integer. Raises ValueError for another file."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > file.stat().st_size:
            raise ValueError(f"{file} is no safetensors file")
        header = json.loads(opened.read(length))
    return sum(
        prod(tensor["shape"])
        for name, tensor in header.items()
        if name != "__metadata__" and tensor["dtype"] in FLOATS and not name.startswith(DROPPED_HEADS)
    )
