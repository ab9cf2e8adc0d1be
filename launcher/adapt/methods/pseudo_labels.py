"""Pseudo-labels of target samples, by sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from launcher.adapt.methods.method import TARGET, StepInfo
from launcher.models.parts.batch import Batch
from launcher.models.tasks.base import Example, Task

UNSURE = -100
"""The value for samples without a pseudo-label; torch's cross-entropy ignores it."""
MOST_CLASSES = 6
"""Classes listed in a note for the user, the most frequent first."""


def collate_with_labels(
    task: Task,
    labels: Sequence[int] | None,
    examples: Sequence[Example],
    ids: Sequence[int],
    sets: Sequence[int],
    moment: StepInfo,
) -> tuple[Batch, dict[str, Tensor]]:
    """The task's batch, and `pseudo` [samples]: the label of each target sample, UNSURE for all others.

    labels: of all target samples; None before the first labelling
    """
    pseudo = [
        labels[id_] if labels is not None and which == TARGET else UNSURE for id_, which in zip(ids, sets, strict=True)
    ]
    return task.collate(examples, ids, moment.epoch), {"pseudo": torch.tensor(pseudo)}


def counted(labels: Tensor, names: Sequence[str]) -> str:
    """The number of samples per label, for the user: `labels for 5 of 8 target samples: 3 bad, 2 good`.

    labels: int64 [samples], UNSURE for samples without one
    """
    counts = [(int((labels == number).sum()), name) for number, name in enumerate(names)]
    classes = ", ".join(f"{count} {name}" for count, name in sorted(counts, key=lambda one: -one[0])[:MOST_CLASSES])
    more = f" and {len(counts) - MOST_CLASSES} more classes" if len(counts) > MOST_CLASSES else ""
    return f"labels for {sum(count for count, _ in counts)} of {len(labels)} target samples: {classes}{more}"
