"""SHOT: adapting a trained model without its source data (Liang et al. 2020, arXiv:2002.08546).

The head is frozen. The rest minimises mean H(p) − diversity · H(mean p) + weight · cross-entropy of pseudo-labels, for
confident predictions, balanced classes, and agreement with the nearest class centre.

Centres (section 3.2): first the mean of all features, weighted by the class's probability. Each sample gets the label
of the nearest centre by cosine, of features with a one appended and normalised to length one. Then centres and labels
are computed once more from those labels. Both are computed before each epoch from sums over all samples. The labels are
stored by sample, and saved with each checkpoint.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from launcher.adapt.methods.cdan import entropy
from launcher.adapt.methods.method import (
    BatchObservations,
    ForwardOutputs,
    Method,
    StepBatch,
    StepInfo,
    TargetInference,
)
from launcher.adapt.methods.pseudo_labels import collate_with_labels, counted
from launcher.adapt.methods.self_training import pseudo_loss
from launcher.job.sections.methods import Shot


class SourceFree(Method):
    """Information maximisation and centres, with the head frozen."""

    spec: Shot
    loss_terms: ClassVar[tuple[str, ...]] = ("pseudo",)
    observes: ClassVar[tuple[str, ...]] = ("logits",)

    def is_trainable(self, name: str, module: nn.Module, is_head: bool) -> bool:
        """True for all parameters except the head's."""
        return not is_head

    def begin_epoch(self, epoch: int, target: TargetInference) -> str | None:
        """Compute the centres and the labels."""
        batches = [(ids, _direction(features), logits.double().softmax(-1)) for ids, features, logits in target.look()]
        for _ in range(2):
            sums = sum(chances.T @ directions for _, directions, chances in batches)
            centres = _centres(target.add_up(torch.as_tensor(sums)))
            near = [(ids, nearest(directions, centres)) for ids, directions, _ in batches]
            classes = len(centres)
            batches = [
                (ids, directions, F.one_hot(found, classes).double())
                for (ids, directions, _), (_, found) in zip(batches, near, strict=True)
            ]
        labels = torch.zeros(target.samples, dtype=torch.float64)
        for ids, found in near:
            labels[ids] = found.double()
        labels = target.add_up(labels).long()
        self.state["labels"] = labels.tolist()
        return counted(labels, self.task.labels)

    def collate(self, examples: Any, ids: Any, sets: Any, moment: StepInfo) -> Any:
        """The task's batch, with the pseudo-labels."""
        return collate_with_labels(self.task, self.state.get("labels"), examples, ids, sets, moment)

    def weights(self, batch: StepBatch) -> dict[str, Tensor]:
        """The same weight for all samples."""
        return {"pseudo": batch.is_target}

    def coefficients(self, moment: StepInfo) -> dict[str, float]:
        """That of the job."""
        return {"pseudo": self.spec.pseudo_labels}

    def terms(self, seen: ForwardOutputs, parts: Any, batch: StepBatch) -> dict[str, Tensor]:
        """The loss on the pseudo-labels."""
        return {"pseudo": pseudo_loss(seen.logits, batch.extra["pseudo"])}

    def batch_loss(self, found: BatchObservations) -> Tensor:
        """Information maximisation over the whole global batch."""
        return information(found.target("logits"), self.spec.diversity)


def information(logits: Tensor, diversity: float) -> Tensor:
    """mean H(p) − diversity · H(mean p), of logits [samples, classes]."""
    mean = logits.softmax(-1).mean(0)
    evenness = -(mean * torch.log(mean.clamp(min=1e-300))).sum()
    return entropy(logits).mean() - diversity * evenness


def _centres(sums: Tensor) -> Tensor:
    """[classes, width + 1] normalised to length one; zero for a class without any probability."""
    largest = sums.abs().amax(1, keepdim=True)
    return F.normalize(sums / largest.clamp(min=torch.finfo(sums.dtype).tiny), dim=1)


def nearest(directions: Tensor, centres: Tensor) -> Tensor:
    """[samples] the class with the nearest centre; a class without samples has no centre, and is not chosen.

    directions, centres: of length one; zero for a missing centre
    """
    likeness = directions @ centres.T
    return likeness.masked_fill(~centres.any(1), -torch.inf).argmax(1)


def _direction(features: Tensor) -> Tensor:
    """[samples, width + 1] features with a one appended, normalised to length one."""
    return F.normalize(F.pad(features.double(), (0, 1), value=1.0), dim=1)
