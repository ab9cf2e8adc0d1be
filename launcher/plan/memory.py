"""How much memory a process of a job takes, part by part.

Weights, gradients and optimizer are counted; they are the same in every step. Activations and buffers are estimated:
per token and layer, the tensors that autograd keeps of a transformer with fused attention, measured for fp32 and for
autocast to bf16 (tests/plan/test_memory.py does so).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal

from launcher.job.sections.training import Optimizer
from launcher.plan.model_size import ModelSize

FLOAT32 = 4
BYTES_IN_4_BITS = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Of a parameter: half a byte, a scale of one byte for each 64, one of those scales for each 256 (QLoRA, section 3)."""
KEPT_BYTES = {"fp32": 4.0, "bf16": 2.5, "fp16": 2.5}
"""Bytes of a kept element: under autocast some stay in fp32."""
SCORE_BYTES = 12
"""Of a word's score for one token: the score, its logarithm of a share, and the gradient."""
ZERO_BUCKET = 500_000_000
"""Elements that DeepSpeed reduces at once, unless its file says otherwise; it reserves all, however small the model."""

Strategy = Literal["single", "ddp", "fsdp", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload"]


@dataclass(frozen=True)
class Memory:
    """Bytes of one process on its device; `host`: what goes to the machine's memory instead."""

    weights: int
    gradients: int
    optimizer: int
    activations: int = 0
    communication: int = 0
    host: int = 0

    @property
    def state(self) -> int:
        """What is there throughout, and known exactly."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        """All that is on the device."""
        return self.state + self.activations + self.communication

    def __str__(self) -> str:
        parts = [f"{name} {mebibytes(getattr(self, name))}" for name in ("weights", "gradients", "optimizer")]
        parts += [f"about {mebibytes(self.activations)} of activations", f"{mebibytes(self.communication)} of buffers"]
        return f"{mebibytes(self.total)} a process: {', '.join(parts)}"


@dataclass(frozen=True)
class Workload:
    """What a process computes at once.

    tokens: of a micro-batch with its padding
    recomputes: activation checkpointing
    """

    tokens: int
    precision: str
    recomputes: bool


def memory_of(
    size: ModelSize,
    optimizer: Optimizer,
    sharing: Strategy,
    ranks: int,
    load: Workload,
    copies: int = 0,
    *,
    takes_what_it_reserves: bool = True,
) -> Memory:
    """The memory of each process, everything in fp32; frozen parameters have neither gradients nor moments.

    copies: of what learns, kept beside the moments (an average, the start)
    takes_what_it_reserves: as GPUs do, where the memory of a CPU takes what is written to

    DeepSpeed's optimizer steps a flat copy of its slice of the weights, which comes on top of the weights.
    """
    whole = FLOAT32 * (size.parameters - size.in_4_bits) + int(BYTES_IN_4_BITS * size.in_4_bits)
    part = FLOAT32 * ceil(size.parameters / ranks)
    learning, stepped = FLOAT32 * size.learning, FLOAT32 * ceil(size.learning / ranks)
    moments = copies + (int(optimizer.momentum > 0) if optimizer.name == "sgd" else 2)
    activations, block = _activations(size, sharing, load), FLOAT32 * size.block
    if sharing in ("single", "ddp"):
        return Memory(whole, learning, moments * learning, activations)
    if sharing == "fsdp":
        part, stepped = (FLOAT32 * size.share(count, ranks) for count in (size.parameters, size.learning))
        return Memory(part, stepped, moments * stepped, activations, _gathered_by_fsdp(size, activations))
    bucket = FLOAT32 * (ZERO_BUCKET if takes_what_it_reserves else min(ZERO_BUCKET, size.parameters))
    flat_copy, on_host = stepped, (2 + moments) * stepped
    if sharing in ("zero1", "zero2"):
        gradients = learning if sharing == "zero1" else stepped
        return Memory(whole + flat_copy, gradients, moments * stepped, activations, bucket)
    if sharing == "zero2_offload":
        return Memory(whole, 0, 0, activations, 2 * bucket, host=on_host)
    if sharing == "zero3_offload":
        return Memory(0, 0, 0, activations, bucket + 2 * block, host=part + on_host)
    return Memory(part + flat_copy, stepped, moments * stepped, activations, bucket + 2 * block)


def _gathered_by_fsdp(size: ModelSize, activations: int) -> int:
    """What stands outside the blocks, whole from the forward to the end of the backward pass, and beside it either

    this block, the next one, and one block's gradients on their way; or, when all activations are gone, the gradients
    of what stands outside, as they come and on their way.
    """
    outside, learning = FLOAT32 * size.outside, FLOAT32 * min(size.outside, size.learning)
    return outside + max(3 * FLOAT32 * size.block, 2 * learning - activations)


def consolidation(size: ModelSize) -> int:
    """Bytes of a process while the model folder is written: the largest tensor, whole, and a buffer.

    Adapters are small, and merged with their base a buffer at a time.
    """
    return 16 * 2**20 + (0 if size.adapters is not None else FLOAT32 * size.largest)


def _activations(size: ModelSize, sharing: Strategy, load: Workload) -> int:
    """What autograd keeps for the backward pass."""
    layer = 10 * size.hidden + (4 if size.is_gated else 2) * size.intermediate
    kept = KEPT_BYTES[load.precision] * layer * load.tokens
    # autocast keeps a copy of each weight in its own format until the backward pass
    kept_scores = SCORE_BYTES * size.vocabulary * load.tokens
    copies = 0 if load.precision == "fp32" else 2 * (size.block if _frees_copies(sharing, load) else size.parameters)
    kept += _kept_by_adapters(size, load) / max(1, size.layers)
    if load.recomputes:  # one layer whole, and of each other its input
        return int(kept + FLOAT32 * size.hidden * load.tokens * size.layers + copies + kept_scores)
    return int(size.layers * kept + copies + kept_scores)


def _kept_by_adapters(size: ModelSize, load: Workload) -> float:
    """Beside what every linear layer keeps: with DoRA two results, with dropout what is left of the input and where."""
    if size.adapters is None:
        return 0.0
    kept, adapters = KEPT_BYTES[load.precision], size.adapters
    by_dora = 2 * kept * adapters.outputs if adapters.magnitudes else 0.0
    by_dropout = (kept + 1) * adapters.inputs if adapters.drops else 0.0
    return load.tokens * (by_dora + by_dropout)


def _frees_copies(sharing: Strategy, load: Workload) -> bool:
    return load.recomputes or sharing == "fsdp"


def mebibytes(size: int) -> str:
    """`87 MiB`, or `8.1 GiB` from 10 GiB on."""
    return f"{size / 2**30:.1f} GiB" if size >= 10 * 2**30 else f"{size / 2**20:.0f} MiB"
