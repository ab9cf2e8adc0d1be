"""Inference with the current model on the whole target, for methods that use pseudo-labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from launcher.adapt.methods.method import TARGET, ObservedLosses, StepBatch, StepInfo, TargetInference
from launcher.data.prepared import Prepared
from launcher.models.parts.batch import Batch
from launcher.models.tasks.base import Task
from launcher.worker.evaluation.pass_over import pass_over
from launcher.worker.rank.world import World


def target_inference(
    module: nn.Module,
    task: Task,
    target: Prepared,
    world: World,
    batch_size: int,
    precision: str,
    before_batch: Callable[[], None],
) -> TargetInference:
    """Inference on the target by all ranks together; each sample is computed by one of them, without dropout.

    before_batch: called equally often on all ranks
    """

    def forward(plain: Batch) -> Mapping[str, Tensor]:
        batch = StepBatch(
            **vars(plain),
            sets=torch.full_like(plain.ids, TARGET),
            places=plain.ids,
            moment=StepInfo(0, 1),
            wanted=("features", "logits"),
        )
        return cast(ObservedLosses, module(batch)).observed

    def look() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        passed = pass_over(
            target,
            task,
            module,
            world,
            forward,
            batch_size=batch_size,
            precision=precision,
            before_batch=before_batch,
            with_filler=True,  # so that a rank without samples knows the width of features and logits
        )
        for computed in passed:
            own, seen = len(computed.places), computed.result
            yield torch.from_numpy(computed.places), seen["features"].cpu()[:own], seen["logits"].cpu()[:own]

    return TargetInference(len(target), look, world.sum_over_data)
