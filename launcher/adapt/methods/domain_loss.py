"""The domain discriminator behind gradient reversal, which DANN and CDAN share."""

from __future__ import annotations

from math import exp
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from launcher.adapt.methods.method import StepBatch

REFERENCE_WIDTH = 256
"""Number of features at which all layers of a discriminator have the same learning rate."""


class _Reversed(torch.autograd.Function):
    """The identity, whose gradient is multiplied by −λ."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradients[0], None


def reversed_gradient(values: Tensor, strength: float) -> Tensor:
    """`values`, whose gradient is multiplied by −`strength`."""
    reversed_: Tensor = _Reversed.apply(values, strength)
    return reversed_


def reversal(part: float, gamma: float) -> float:
    """λ when a fraction `part` of the run is done (Ganin et al. 2016, section 5.2.2)."""
    return 2 / (1 + exp(-gamma * part)) - 1


class Discriminator(nn.Module):
    """The logit that a vector is from the source domain: [samples, classes · width] to [samples].

    Its outputs have the same scale at every width and number of classes, so that its weight means the same too. A
    vector is one block of features per class, weighted by class probabilities that sum to one. So the first layer is
    initialised for a fan-in of a single block: a confident prediction then has the same scale as plain features. An
    optimizer step changes all weights of a row by about the same amount, and so the row's output in proportion to the
    number of features. So the learning rate of that layer is divided by that number (Yang et al. 2022,
    arXiv:2203.03466, table 8).
    """

    def __init__(self, width: int, hidden: int, classes: int = 1) -> None:
        super().__init__()
        self._width = width
        self.layers = nn.Sequential(nn.Linear(classes * width, hidden), nn.ReLU(), nn.Linear(hidden, 1))
        with torch.no_grad():
            for parameter in self.layers[0].parameters():
                parameter.mul_(classes**0.5)

    def learning_rate_factors(self, factor: float) -> dict[str, float]:
        """Factors by parameter name; all are `factor` at a width of `REFERENCE_WIDTH`."""
        factors = {name: factor for name, _ in self.named_parameters()}
        return factors | {"layers.0.weight": factor * REFERENCE_WIDTH / self._width}

    def forward(self, vectors: Tensor) -> Tensor:
        """One logit per vector."""
        logits: Tensor = self.layers(vectors)
        return logits[:, 0].float()


def domain_losses(logits: Tensor, batch: StepBatch) -> dict[str, Tensor]:
    """Cross-entropy of each sample's domain, with one term per domain."""
    losses = F.binary_cross_entropy_with_logits(logits, batch.is_labelled, reduction="none")
    return {"source_domain": losses * batch.is_labelled, "target_domain": losses * batch.is_target}
