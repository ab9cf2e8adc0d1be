"""What travels between the data, the model and the engine: a micro-batch and its losses."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One micro-batch on one device.

    inputs: what the model is called with, each [samples, length]
    targets: [samples], or [samples, length] where each token has a target
    ids: [samples] positions of the samples in their data set
    tokens: count of tokens that are not padding
    """

    inputs: dict[str, Tensor]
    targets: Tensor
    ids: Tensor
    tokens: int

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        if self.ids.device == device:
            return self
        move = {"device": device, "non_blocking": True}
        return replace(
            self,
            inputs={name: tensor.to(**move) for name, tensor in self.inputs.items()},
            targets=self.targets.to(**move),
            ids=self.ids.to(**move),
        )


@dataclass(frozen=True)
class Losses:
    """What one forward pass gives.

    weighted: [samples] weightᵢ·lossᵢ, with gradient; a sample of many tokens holds their sum
    weights: [samples] weightᵢ, without gradient
    outputs: [samples, …] scores for statistics and predictions, without gradient
    """

    weighted: Tensor
    weights: Tensor
    outputs: Tensor
