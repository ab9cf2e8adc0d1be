"""What travels between the data, the model and the engine: a micro-batch and its losses."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One micro-batch on one device.

    A rank without samples computes on a real sample with weight zero (filler), so that it joins every collective.

    inputs: what the model is called with, each [samples, length]
    targets: [samples], or [samples, length] where each token has a target
    weights: [samples] float32, the weight of each sample in the loss; zero for filler
    ids: [samples] positions of the samples in their data set; -1 for filler
    tokens: count of tokens that are not padding
    """

    inputs: dict[str, Tensor]
    targets: Tensor
    weights: Tensor
    ids: Tensor
    tokens: int

    @property
    def samples(self) -> int:
        """Count of samples, filler left out."""
        return int((self.ids >= 0).sum())

    @property
    def weight(self) -> float:
        """Sum of the samples' weights."""
        return float(self.weights.sum(dtype=torch.float64))

    def as_filler(self) -> Batch:
        """What a rank without samples computes on: the same inputs, which count for nothing."""
        return replace(self, weights=torch.zeros_like(self.weights), ids=torch.full_like(self.ids, -1), tokens=0)

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        if self.ids.device == device:
            return self
        return replace(
            self,
            inputs={name: tensor.to(device, non_blocking=True) for name, tensor in self.inputs.items()},
            targets=self.targets.to(device, non_blocking=True),
            weights=self.weights.to(device, non_blocking=True),
            ids=self.ids.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class Losses:
    """What one forward pass gives.

    weighted: [samples] weightᵢ·lossᵢ, with gradient; a sample of many tokens holds their sum
    outputs: [samples, …] scores for statistics and predictions, without gradient
    """

    weighted: Tensor
    outputs: Tensor
