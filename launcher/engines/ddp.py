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
        """Move the model to the device, synchronise it over the ranks, register the gradient hooks."""
        self._parallel = DistributedDataParallel(
            model.to(self._device),
            device_ids=[self._device.index] if self._device.type == "cuda" else None,
            process_group=data_group(self._mesh),
            broadcast_buffers=False,
            find_unused_parameters=True,  # such as a pooler that is not called, or an expert without tokens
            gradient_as_bucket_view=True,
        )
        return self._parallel

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        """Gradients are reduced in the last backward pass of a step."""
        return nullcontext() if last else self._parallel.no_sync()

    def gradient_squares(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """The whole gradient is on each rank."""
        return sum_of_squares(gradients_of(parameters))

    def whole(self, tensor: Tensor) -> Tensor:
        """The tensor itself, which is whole."""
        return tensor

    def refresh(self) -> None:
        """Nothing to do: there are no other copies of the weights."""
