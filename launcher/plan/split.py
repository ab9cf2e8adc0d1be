"""How a global batch is split into ranks, micro-batches and accumulation steps."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil


@dataclass(frozen=True)
class Split:
    """The split of one global batch. It decides speed and memory, never the result.

    global_batch: samples per optimizer step
    ranks: processes that share them
    micro_batch: samples of full length per micro-batch of a process
    accumulation: micro-batches per process and step
    """

    global_batch: int
    ranks: int
    micro_batch: int
    accumulation: int

    def __str__(self) -> str:
        ranks = "1 rank" if self.ranks == 1 else f"{self.ranks} ranks"
        share = f"{self.accumulation} micro-batches of up to {self.micro_batch}"
        return f"{self.global_batch} samples a step = {ranks} × {share}"


def split_batch(global_batch: int, ranks: int, micro_batch: int) -> Split:
    """Split `global_batch` samples into equal micro-batches no larger than `micro_batch`."""
    accumulation = ceil(global_batch / (ranks * micro_batch))
    return Split(global_batch, ranks, ceil(global_batch / (ranks * accumulation)), accumulation)
