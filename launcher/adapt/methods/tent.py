"""Entropy minimisation of normalisation layers (TENT; Wang et al. 2021, arXiv:2006.10726), source-free.

Only scales and shifts of normalisation layers are trained. The paper adapts BatchNorm, and also takes its statistics
from the target. LayerNorm has no statistics, so only its affine parameters are trained. A model that predicts one class
for everything has the lowest entropy. So the entropy of the mean prediction is maximised too, as in SHOT; the paper
does not do this (`diversity: 0`). Training ends if one class has nearly all of a running mean of predictions.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from launcher.adapt.methods.method import BatchObservations, ForwardOutputs, Method, StepBatch
from launcher.adapt.methods.shot import information
from launcher.job.sections.methods import Tent

KEPT = 0.9
"""Decay of the running mean per step."""
STEPS_BEFORE_IT_COUNTS = 10


class SureNormalisation(Method):
    """Confident and class-balanced predictions, by training normalisation layers only."""

    spec: Tent
    loss_terms: ClassVar[tuple[str, ...]] = ()
    observes: ClassVar[tuple[str, ...]] = ("logits",)

    def is_trainable(self, name: str, module: nn.Module, is_head: bool) -> bool:
        """True only for normalisation layers."""
        return "norm" in type(module).__name__.lower()

    def weights(self, batch: StepBatch) -> dict[str, Tensor]:
        """There is no term but the loss over everything."""
        return {}

    def terms(self, seen: ForwardOutputs, parts: nn.Module | None, batch: StepBatch) -> dict[str, Tensor]:
        """There is no term but the loss over everything."""
        return {}

    def batch_loss(self, found: BatchObservations) -> Tensor:
        """Information maximisation over the global batch; updates the running mean of predictions."""
        logits = found.target("logits")
        mean = logits.detach().softmax(-1).mean(0)
        if torch.isfinite(mean).all():  # a step whose loss is NaN or infinite is skipped
            held = torch.tensor(self.state.get("classes") or [0.0] * len(mean), dtype=torch.float64)
            self.state["classes"] = (KEPT * held + (1 - KEPT) * mean).tolist()
            self.state["steps"] = self.state.get("steps", 0) + 1
        return information(logits, self.spec.diversity)

    def has_collapsed(self) -> str | None:
        """A message if one class has nearly all predictions."""
        classes = torch.tensor(self.state.get("classes") or [0.0])
        share = float(classes.max() / classes.sum().clamp(min=1e-30))
        if self.state.get("steps", 0) < STEPS_BEFORE_IT_COUNTS or share < self.spec.collapse:
            return None
        label = self.task.labels[int(classes.argmax())]
        return (
            f"the model has collapsed: {100 * share:.0f} % of its recent predictions are {label!r}. Keep "
            "the model that it started from, or use a lower learning rate or larger batches"
        )
