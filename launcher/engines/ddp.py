"""Distributed data parallel: the whole model on each rank, gradients averaged between them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from launcher.engines.clipping import sum_of_squares
from launcher.engines.mesh import data_group
from launcher.engines.torch_engine import gradients_of
from launcher.models.weights.stored import LazyTensors
from launcher.plan.mesh import Mesh


class DataParallel:
    """`torch.nn.parallel.DistributedDataParallel` over the ranks that hold different samples."""

    shards_weights = False

    def __init__(self, device: torch.device, mesh: Mesh) -> None:
        self._device, self._mesh = device, mesh
        self.averaged_over = mesh.data_size

    def spread(self, model: nn.Module, stored: LazyTensors) -> nn.Module:
        """Move the model to the device, make it equal on all ranks, hook the gradients."""
        self._parallel = DistributedDataParallel(
            model.to(self._device),
            device_ids=[self._device.index] if self._device.type == "cuda" else None,
            process_group=data_group(self._mesh),
            broadcast_buffers=False,
            find_unused_parameters=True,  # a pooler nobody asks, an expert no token chose
            gradient_as_bucket_view=True,
        )
        return self._parallel

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        """Gradients travel in the last backward pass of a step."""
        return nullcontext() if last else self._parallel.no_sync()

    def gradient_squares(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """All of it is on each rank."""
        return sum_of_squares(gradients_of(parameters))

    def whole(self, tensor: Tensor) -> Tensor:
        """As it is."""
        return tensor

    def refresh(self) -> None:
        """Nothing is held elsewhere."""
