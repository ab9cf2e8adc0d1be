"""The model as it is, on all of the target: for methods that label it themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor, nn

from launcher.adapt.methods.method import TARGET, Observed, StepBatch, StepInfo, TargetInference
from launcher.data.prepared import Prepared
from launcher.engines.single import autocast
from launcher.models.tasks.base import Task
from launcher.worker.evaluation.evaluate import batch_of, batches_of_rank, evaluating
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
    """What all ranks together see of the target; each sample is looked at by one of them, without dropout.

    before_batch: called equally often on all ranks
    """

    def look() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        with evaluating(module):
            for ids in batches_of_rank(target.lengths, batch_size, world, one_length=task.one_length):
                world.heartbeat.beat()
                before_batch()
                plain = batch_of(task, target, ids)
                batch = StepBatch(
                    **vars(plain),
                    sets=torch.full(plain.ids.shape, TARGET),
                    places=plain.ids,
                    moment=StepInfo(0, 1),
                    wanted=("features", "logits"),
                )
                with autocast(world.device, precision):
                    seen = cast(Observed, module(batch.to(world.device))).observed
                rows = plain.ids >= 0
                yield plain.ids[rows], seen["features"].cpu()[rows], seen["logits"].cpu()[rows]

    return TargetInference(len(target), look, world.sum)
