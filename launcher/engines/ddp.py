"""Distributed data parallel: the whole model on each rank, gradients averaged between them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from launcher.engines.base import PLAIN, ParamOptions
from launcher.engines.single import SingleEngine
from launcher.job.sections.training import Optimizer
from launcher.models.parts.batch import Batch, Losses
from launcher.models.weights.stored import LazyTensors


class DDPEngine(SingleEngine):
    """`torch.nn.parallel.DistributedDataParallel` around the single engine's model."""

    def prepare(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        stored: LazyTensors,
        treatments: Mapping[str, ParamOptions] = PLAIN,
    ) -> None:
        """Move the model to the device, make it equal on all ranks, hook the gradients."""
        super().prepare(model, optimizer, stored, treatments)
        gpu = [self._settings.device.index] if self._settings.device.type == "cuda" else None
        self._parallel = DistributedDataParallel(
            self._model,
            device_ids=gpu,
            broadcast_buffers=False,
            find_unused_parameters=True,  # a pooler nobody asks, an expert no token chose
            gradient_as_bucket_view=True,
        )

    def accumulate(self, batch: Batch, scale: float, last: bool) -> Losses:
        """Forward and backward. DDP divides the gradients' sum by the world's size, which is undone here."""
        with nullcontext() if last else self._parallel.no_sync():
            return self._forward_backward(self._parallel, batch, scale * dist.get_world_size())
