"""Data parallel in its plainest form: after the last backward pass of a step the gradients are added up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from launcher.engines.base import EngineSettings
from launcher.engines.clipping import sum_of_squares
from launcher.engines.mesh import data_group
from launcher.engines.torch_engine import gradients_of
from launcher.models.weights.stored import LazyTensors


class AllReduced:
    """The model whole on each rank."""

    shards_weights = False
    averaged_over = 1

    def __init__(self, settings: EngineSettings) -> None:
        self._device, self._group = settings.device, data_group(settings.mesh)

    def spread(self, model: nn.Module, stored: LazyTensors) -> nn.Module:
        """Move the model to the device; all ranks have read the same weights."""
        self._model = model.to(self._device)
        return self._model

    @contextmanager
    def accumulating(self, last: bool) -> Iterator[None]:
        """Gradients travel after the last backward pass; one that a rank has no part in is zero there."""
        yield
        if last:
            for parameter in self._model.parameters():
                if parameter.requires_grad:
                    parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                    dist.all_reduce(parameter.grad, group=self._group)

    def gradient_squares(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """All of it is on each rank."""
        return sum_of_squares(gradients_of(parameters))

    def whole(self, tensor: Tensor) -> Tensor:
        """As it is."""
        return tensor

    def refresh(self) -> None:
        """Nothing is held elsewhere."""
