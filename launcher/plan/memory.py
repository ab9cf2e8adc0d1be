"""Estimated memory of each process of a job, part by part.

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
"""Bytes per parameter: half a byte, a one-byte scale per 64, a scale of these per 256 (QLoRA, section 3)."""
KEPT_BYTES = {"fp32": 4.0, "bf16": 2.5, "fp16": 2.5}
"""Bytes of an element that autograd keeps: under autocast some stay in fp32."""
SCORE_BYTES = 12
"""Bytes per vocabulary entry and token: the logit, its log-probability, and the gradient."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one process on its device; `host`: bytes offloaded to host memory."""

    weights: int
    gradients: int
    optimizer: int
    activations: int = 0
    communication: int = 0
    host: int = 0

    @property
    def state(self) -> int:
        """The persistent part, which is known exactly."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        """All bytes on the device."""
        return self.state + self.activations + self.communication

    def __str__(self) -> str:
        parts = [f"{name} {mebibytes(getattr(self, name))}" for name in ("weights", "gradients", "optimizer")]
        parts += [f"about {mebibytes(self.activations)} of activations", f"{mebibytes(self.communication)} of buffers"]
        return f"{mebibytes(self.total)} a process: {', '.join(parts)}"


@dataclass(frozen=True)
class Workload:
    """The micro-batch of a process.

    tokens: of a micro-batch, padding included
    recomputes: whether activations are recomputed (activation checkpointing)
    accumulates: whether a step has several micro-batches, so that gradients are held during a forward pass
    """

    tokens: int
    precision: str
    recomputes: bool
    accumulates: bool = True


@dataclass(frozen=True)
class Demand:
    """What a job needs memory for; an engine decides which part of it is on each process.

    moments: fp32 values per trained parameter: the optimizer's, and copies that options keep
    takes_what_it_reserves: True on GPUs; on a CPU only memory that is written to counts
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
        """Bytes of a rank's shard of the weights."""
        return FLOAT32 * ceil(self.size.parameters / self.ranks)

    @property
    def learning(self) -> int:
        """Bytes of all gradients."""
        return FLOAT32 * self.size.learning

    @property
    def stepped(self) -> int:
        """Bytes of a rank's shard of the gradients."""
        return FLOAT32 * ceil(self.size.learning / self.ranks)

    @property
    def block(self) -> int:
        """Bytes of the weights of the largest repeated layer."""
        return FLOAT32 * self.size.block

    def activations(self, *, frees_copies: bool = False, allocated_late: int = 0) -> int:
        """Bytes that autograd keeps for the backward pass, in addition to the gradients.

        frees_copies: whether autocast's copies of the weights are freed block by block
        allocated_late: bytes of gradients that an engine allocates during the backward pass. In a step of one
            micro-batch they take the place of activations that are freed, except the gradient of an output layer with
            a vocabulary, which comes first.
        """
        kept = _activations(self.size, self.load, frees_copies or self.load.recomputes)
        if self.load.accumulates:
            return kept
        comes_first = FLOAT32 * self.size.outside if self.size.vocabulary else 0
        return kept - max(0, min(kept, allocated_late - comes_first))


def whole_on_each(need: Demand, allocated_late: int = 0) -> Memory:
    """Each process holds everything; the gradients from the start, except those that are allocated late."""
    activations = need.activations(allocated_late=allocated_late)
    return Memory(need.weights, need.learning, need.moments * need.learning, activations)


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
    if load.recomputes:  # all of one layer, and the input of each other
        return int(kept + FLOAT32 * size.hidden * load.tokens * size.layers + copies + kept_scores)
    return int(size.layers * kept + copies + kept_scores)


def _kept_by_adapters(size: ModelSize, load: Workload) -> float:
    """In addition to a linear layer's: two outputs for DoRA; for dropout the dropped-out input and its mask."""
    if size.adapters is None:
        return 0.0
    kept, adapters = KEPT_BYTES[load.precision], size.adapters
    by_dora = 2 * kept * adapters.outputs if adapters.magnitudes else 0.0
    by_dropout = (kept + 1) * adapters.inputs if adapters.drops else 0.0
    return load.tokens * (by_dora + by_dropout)


def mebibytes(size: int) -> str:
    """`87 MiB`, or `8.1 GiB` from 10 GiB on."""
    return f"{size / 2**30:.1f} GiB" if size >= 10 * 2**30 else f"{size / 2**20:.0f} MiB"
