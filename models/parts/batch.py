"""The types passed between data, model and engine: a micro-batch and its losses."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One micro-batch on one device.

    A rank without samples computes on a real sample with weight zero (filler), so that it joins every collective.

    inputs: keyword arguments of the model, each [samples, length]
    targets: [samples], or [samples, length] if each token has a target
    weights: [samples] float32, the weight of each sample in the loss; zero for filler
    ids: [samples] positions of the samples in their data set; -1 for filler
    tokens: number of tokens that are not padding
    """

    inputs: dict[str, Tensor]
    targets: Tensor
    weights: Tensor
    ids: Tensor
    tokens: int

    @property
    def samples(self) -> int:
        """Number of samples, without filler."""
        return int((self.ids >= 0).sum())

    @property
    def weight(self) -> float:
        """Sum of the samples' weights."""
        return float(self.weights.sum(dtype=torch.float64))

    def as_filler(self) -> Batch:
        """The same inputs with weight zero, for a rank without samples."""
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
    """The result of one forward pass.

    weighted: [samples] weightᵢ·lossᵢ, with gradient; summed over the tokens of a sample
    outputs: [samples, …] for statistics and predictions, without gradient
    """

    weighted: Tensor
    outputs: Tensor
