"""Minimum class confusion (Jin et al. 2020, arXiv:1912.03699).

Of the target's class probabilities Y at a temperature, weighted by certainty W = n·softmax-like (1 + exp(−H)), taken as
given: the confusion Yᵀ·W·Y, each row brought to the sum one, and of that what is off the diagonal, a mean over classes.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from launcher.adapt.methods.cdan import entropy
from launcher.adapt.methods.method import BatchObservations, Method
from launcher.job.sections.methods import Mcc


class ClassConfusion(Method):
    """The task, and little confusion on the target."""

    spec: Mcc
    observes: ClassVar[tuple[str, ...]] = ("logits",)

    def batch_loss(self, found: BatchObservations) -> Tensor:
        """Of the target samples of the whole global batch."""
        return self.spec.weight * confusion(found.target("logits"), self.spec.temperature)


def confusion(logits: Tensor, temperature: float) -> Tensor:
    """Of logits [samples, classes]."""
    scaled = logits / temperature
    certainty = 1 + torch.exp(-entropy(scaled.detach()))
    weights = len(logits) * certainty / certainty.sum()
    probabilities = scaled.softmax(-1)
    between = probabilities.T @ (probabilities * weights.unsqueeze(1))
    between = between / between.sum(1, keepdim=True)
    return (between.sum() - between.trace()) / logits.shape[1]
