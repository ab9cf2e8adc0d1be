"""How much memory a process of a job takes, part by part.

Weights, gradients and optimizer are counted; they are the same in every step. Activations and buffers are estimated:
per token and layer, the tensors that autograd keeps of a transformer with fused attention, measured for fp32 and for
autocast to bf16 (tests/plan/test_memory.py does so).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from launcher.plan.model_size import ModelSize

FLOAT32 = 4
BYTES_IN_4_BITS = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Of a parameter: half a byte, a scale of one byte for each 64, one of those scales for each 256 (QLoRA, section 3)."""
KEPT_BYTES = {"fp32": 4.0, "bf16": 2.5, "fp16": 2.5}
"""Bytes of a kept element: under autocast some stay in fp32."""
SCORE_BYTES = 12
"""Of a word's score for one token: the score, its logarithm of a share, and the gradient."""


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


@dataclass(frozen=True)
class Demand:
    """What a job's processes need memory for; an engine says which part of it each of them has.

    moments: fp32 values beside each parameter that learns: the optimizer's, and copies that options keep
    takes_what_it_reserves: as GPUs do, where the memory of a CPU takes what is written to
    """

    size: ModelSize
    ranks: int
    moments: int
    load: Workload
    takes_what_it_reserves: bool = True

    @property
    def weights(self) -> int:
        """Bytes of all weights."""
        in_4_bits = self.size.in_4_bits
        return FLOAT32 * (self.size.parameters - in_4_bits) + int(BYTES_IN_4_BITS * in_4_bits)

    @property
    def part(self) -> int:
        """Of the weights, cut into equal runs of elements."""
        return FLOAT32 * ceil(self.size.parameters / self.ranks)

    @property
    def learning(self) -> int:
        """Bytes of all gradients."""
        return FLOAT32 * self.size.learning

    @property
    def stepped(self) -> int:
        """Of the gradients, cut into equal runs of elements."""
        return FLOAT32 * ceil(self.size.learning / self.ranks)

    @property
    def block(self) -> int:
        """Bytes of the weights of the largest repeated layer."""
        return FLOAT32 * self.size.block

    def activations(self, *, frees_copies: bool = False) -> int:
        """What autograd keeps for the backward pass.

        frees_copies: of weights in the format of autocast, block by block
        """
        return _activations(self.size, self.load, frees_copies or self.load.recomputes)


def whole_on_each(need: Demand) -> Memory:
    """Each process holds everything."""
    return Memory(need.weights, need.learning, need.moments * need.learning, need.activations())


def consolidation(size: ModelSize) -> int:
    """Bytes of a process while the model folder is written: the largest tensor, whole, and a buffer.

    Adapters are small, and merged with their base a buffer at a time.
    """
    is_small = size.adapters is not None and size.adapters.is_beside_base
    return 16 * 2**20 + (0 if is_small else FLOAT32 * size.largest)


def _activations(size: ModelSize, load: Workload, frees_copies: bool) -> int:
    layer = 10 * size.hidden + (4 if size.is_gated else 2) * size.intermediate
    kept = KEPT_BYTES[load.precision] * layer * load.tokens
    # autocast keeps a copy of each weight in its own format until the backward pass
    kept_scores = SCORE_BYTES * size.vocabulary * load.tokens
    copies = 0 if load.precision == "fp32" else 2 * (size.block if frees_copies else size.parameters)
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


def mebibytes(size: int) -> str:
    """`87 MiB`, or `8.1 GiB` from 10 GiB on."""
    return f"{size / 2**30:.1f} GiB" if size >= 10 * 2**30 else f"{size / 2**20:.0f} MiB"
