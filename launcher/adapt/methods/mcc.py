"""Minimum class confusion (Jin et al. 2020, arXiv:1912.03699).

Y are the target's class probabilities at a temperature. W are weights 1 + exp(−H), normalised to mean one and detached.
The loss is the off-diagonal sum of the confusion matrix Yᵀ·W·Y with rows normalised to one, averaged over classes.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from launcher.adapt.methods.cdan import entropy
from launcher.adapt.methods.method import BatchObservations, Method
from launcher.job.sections.methods import Mcc


class ClassConfusion(Method):
    """The task's loss, and minimum class confusion on the target."""

    spec: Mcc
    observes: ClassVar[tuple[str, ...]] = ("logits",)

    def batch_loss(self, found: BatchObservations) -> Tensor:
        """The confusion of the target samples of the whole global batch."""
        return self.spec.weight * confusion(found.target("logits"), self.spec.temperature)


def confusion(logits: Tensor, temperature: float) -> Tensor:
    """The class confusion of logits [samples, classes]."""
    scaled = logits / temperature
    certainty = 1 + torch.exp(-entropy(scaled.detach()))
    weights = len(logits) * certainty / certainty.sum()
    probabilities = scaled.softmax(-1)
    between = probabilities.T @ (probabilities * weights.unsqueeze(1))
    between = between / between.sum(1, keepdim=True)
    return (between.sum() - between.trace()) / logits.shape[1]
