"""Telling the domains apart, and features that unlearn it: what DANN and CDAN have in common."""

from __future__ import annotations

from math import exp
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from launcher.adapt.method import StepBatch


class _Reversed(torch.autograd.Function):
    """The identity, whose gradient is multiplied by −λ on its way back."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradients[0], None


def reversed_gradient(values: Tensor, strength: float) -> Tensor:
    """`values`, whose gradient comes back times −`strength`."""
    reversed_: Tensor = _Reversed.apply(values, strength)
    return reversed_


def reversal(part: float, gamma: float) -> float:
    """How strongly gradients are reversed when `part` of the run is done (Ganin et al. 2016, section 5.2.2)."""
    return 2 / (1 + exp(-gamma * part)) - 1


class Discriminator(nn.Module):
    """Says of each vector how likely it is of the source: [samples, width] to [samples] logits."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, vectors: Tensor) -> Tensor:
        """One logit a vector."""
        logits: Tensor = self.layers(vectors)
        return logits[:, 0].float()


def domain_losses(logits: Tensor, batch: StepBatch) -> dict[str, Tensor]:
    """Cross-entropy of each sample's domain, those of the two domains as terms of their own."""
    losses = F.binary_cross_entropy_with_logits(logits, batch.is_labelled, reduction="none")
    return {"source_domain": losses * batch.is_labelled, "target_domain": losses * batch.is_target}
