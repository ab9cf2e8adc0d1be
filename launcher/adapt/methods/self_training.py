"""Self-training (Lee 2013, "Pseudo-Label") with class balance (Zou et al. 2018, arXiv:1810.07911).

Before each epoch the model labels the whole target; a label is used if its probability reaches a threshold. Class
balance keeps the same number of labels of each class, the most confident ones. The labels are stored by sample, saved
with each checkpoint, and are the same on any number of processes. The target's loss is a mean over all target samples
of the step, with or without a label, so that few labels have little weight.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from launcher.adapt.methods.method import ForwardOutputs, Method, StepBatch, StepInfo, TargetInference
from launcher.adapt.methods.pseudo_labels import UNSURE, collate_with_labels, counted
from launcher.job.sections.methods import SelfTraining


class SelfTrained(Method):
    """The task's loss on the source, and on the target with pseudo-labels."""

    spec: SelfTraining
    loss_terms: ClassVar[tuple[str, ...]] = ("task", "pseudo")

    def begin_epoch(self, epoch: int, target: TargetInference) -> str | None:
        """Label the target."""
        if epoch < self.spec.after_epochs:
            return None
        labels = torch.zeros(target.samples, dtype=torch.float64)
        sureness = torch.zeros(target.samples, dtype=torch.float64)
        for ids, _, logits in target.look():
            sureness[ids], found = logits.double().softmax(-1).max(-1)
            labels[ids] = found.double()
        # each sample is on one rank and zero on all others, so the sums are the values
        labels, sureness = target.add_up(labels).long(), target.add_up(sureness)
        kept = chosen(labels, sureness, self.spec.threshold, self.spec.class_balanced)
        labels = torch.where(kept, labels, UNSURE)
        self.state["labels"] = labels.tolist()
        note = counted(labels, self.task.labels)
        return note if kept.any() else f"{note}; none reaches adapt.threshold {self.spec.threshold:g}"

    def collate(self, examples: Any, ids: Any, sets: Any, moment: StepInfo) -> Any:
        """The task's batch, with the pseudo-labels."""
        return collate_with_labels(self.task, self.state.get("labels"), examples, ids, sets, moment)

    def weights(self, batch: StepBatch) -> dict[str, Tensor]:
        """All target samples have the same weight, with or without a label."""
        return {"task": batch.sample_weights, "pseudo": batch.is_target}

    def coefficients(self, moment: StepInfo) -> dict[str, float]:
        """That of the job."""
        return {"pseudo": self.spec.weight}

    def terms(self, seen: ForwardOutputs, parts: Any, batch: StepBatch) -> dict[str, Tensor]:
        """The task's loss, and the loss on pseudo-labels."""
        return {"task": seen.losses, "pseudo": pseudo_loss(seen.logits, batch.extra["pseudo"])}


def pseudo_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """[samples] cross-entropy, zero for samples without a label."""
    return F.cross_entropy(logits, labels, reduction="none", ignore_index=UNSURE)


def chosen(labels: Tensor, sureness: Tensor, threshold: float, balanced: bool) -> Tensor:
    """[samples] which labels are kept; the first among equally confident ones."""
    kept = sureness >= threshold
    if not balanced or not kept.any():
        return kept
    occurring = labels[kept].unique()
    fewest = min(int((labels[kept] == label).sum()) for label in occurring)
    result = torch.zeros_like(kept)
    for label in occurring:
        mine = torch.nonzero(kept & (labels == label))[:, 0]
        result[mine[torch.argsort(-sureness[mine], stable=True)[:fewest]]] = True
    return result
