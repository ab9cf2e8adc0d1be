"""One process holds everything: for laptops and tests, and the reference that every other engine must agree with."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from launcher.engines.clipping import sum_of_squares
from launcher.engines.torch_engine import gradients_of
from launcher.models.weights.stored import LazyTensors


class OneDevice:
    """The model and the optimizer, whole, on one device."""

    shards_weights = False
    averaged_over = 1

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def spread(self, model: nn.Module, stored: LazyTensors) -> nn.Module:
        """Move the model to the device."""
        return model.to(self._device)

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        """Nothing to communicate."""
        return nullcontext()

    def gradient_squares(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """The whole gradient is on this process."""
        return sum_of_squares(gradients_of(parameters))

    def whole(self, tensor: Tensor) -> Tensor:
        """The tensor itself, which is whole."""
        return tensor

    def refresh(self) -> None:
        """Nothing to do: there are no other copies of the weights."""
