"""Distillation from the pretrained model against forgetting (Li & Hoiem 2017, arXiv:1606.09282)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from launcher.job.sections.adapting import Distill
from launcher.models.parts.batch import Batch, Losses
from launcher.models.tasks.base import TaskModule

TEACHER = "teacher"
"""Attribute of the frozen model in the task's module: sharded like `model`, and never saved."""


def add_teacher(module: TaskModule, teacher: nn.Module, spec: Distill) -> None:
    """Add distillation to `module`'s training loss: (1 − weight)·loss + weight·T²·KL(teacher ‖ model).

    One forward computes both, so every engine averages the sum as it averages any loss. The softmax is over the last
    dimension of the logits; logits of independent labels are compared one by one.
    """
    teacher.requires_grad_(False).eval()
    teacher.train = lambda mode=True: teacher  # type: ignore[method-assign]  # stays in evaluation mode
    for part in teacher.modules():
        part._non_persistent_buffers_set.update(part._buffers)
    module.add_module(TEACHER, teacher)
    plain, calls = module.forward, list[tuple[dict[str, Any], Tensor]]()

    def note(_: nn.Module, __: Any, inputs: dict[str, Any], output: Any) -> None:
        calls.append((inputs, output.logits))

    def forward(batch: Batch) -> Losses:
        losses = plain(batch)
        inputs, scores = calls.pop()
        if not module.training:
            return losses
        with torch.no_grad():
            aims = teacher(**inputs).logits
        apart = divergence(scores, aims, spec.temperature, independent=getattr(module, "loss", "") == "binary")
        distilled = (apart * batch.weights).flatten(1).sum(1) if apart.ndim > 1 else apart * batch.weights
        weighted = (1 - spec.weight) * losses.weighted + spec.weight * spec.temperature**2 * distilled
        return Losses(weighted=weighted, outputs=losses.outputs)

    module.model.register_forward_hook(note, with_kwargs=True)
    module.forward = forward  # type: ignore[method-assign]


def divergence(scores: Tensor, aims: Tensor, temperature: float, *, independent: bool = False) -> Tensor:
    """KL(`aims` ‖ `scores`) of the softmax over the last dimension.

    scores, aims: […, classes] logits, divided by the temperature; independent: the mean over binary labels
    """
    scores, aims = scores.float() / temperature, aims.float() / temperature
    if not independent:
        return F.kl_div(scores.log_softmax(-1), aims.log_softmax(-1), reduction="none", log_target=True).sum(-1)
    likely = aims.sigmoid()
    crossed = F.binary_cross_entropy_with_logits(scores, likely, reduction="none")
    return (crossed - F.binary_cross_entropy_with_logits(aims, likely, reduction="none")).mean(-1)
