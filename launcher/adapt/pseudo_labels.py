"""Labels that a model gave to target samples, kept by sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from launcher.adapt.method import TARGET, Moment
from launcher.models.base import Example, Task
from launcher.models.batch import Batch

UNSURE = -100
"""In the place of a label that is not to be learned; torch's cross-entropy skips it."""


def collate_with_labels(
    task: Task,
    labels: Sequence[int] | None,
    examples: Sequence[Example],
    ids: Sequence[int],
    sets: Sequence[int],
    moment: Moment,
) -> tuple[Batch, dict[str, Tensor]]:
    """The task's batch, and beside it `pseudo` [samples]: the label of each target sample, UNSURE for all others.

    labels: of all target samples; None before there are any
    """
    told = [
        labels[id_] if labels is not None and which == TARGET else UNSURE for id_, which in zip(ids, sets, strict=True)
    ]
    return task.collate(examples, ids, moment.epoch), {"pseudo": torch.tensor(told or [UNSURE])}
