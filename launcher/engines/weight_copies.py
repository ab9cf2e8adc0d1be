"""Copies kept beside the tensors that an optimizer steps, laid out as those are: an average, and the start.

What an optimizer steps is a whole parameter, a shard of one, or under ZeRO a flat slice of many. All that is done here
is done element by element, so no rank ever needs more than its own part, and checkpoints hold it as they hold moments.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from launcher.engines.base import EngineSettings

AVERAGE, START = "average", "start"
"""Their names among the moments of a checkpoint."""


class Copies:
    """Made when the weights are those that training began from, before any checkpoint is loaded.

    stepped: each tensor that the optimizer steps, with its group; a group is of new parameters or of pretrained ones
    """

    def __init__(self, stepped: Iterable[tuple[Tensor, Mapping[str, Any]]], settings: EngineSettings) -> None:
        self._stepped: dict[Tensor, bool] = {tensor: group["is_new"] for tensor, group in stepped}
        self._pull, self._keeps_start = settings.pull, settings.keeps_start
        self._average = _copies(self._stepped) if settings.averages else {}
        self._start = _copies(self._stepped) if settings.pull or settings.keeps_start else {}
        self._end: dict[Tensor, Tensor] = {}

    def hook(self, optimizer: torch.optim.Optimizer) -> None:
        """Let the pull be a part of the optimizer's step, so that a step that is discarded does not pull."""
        if self._pull:
            optimizer.register_step_pre_hook(self._pull_back)

    @torch.no_grad()
    def _pull_back(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        """w − lr·α·(w − w₀), with the rate of w's own group (Xuhong et al. 2018, arXiv:1802.01483)."""
        for group in optimizer.param_groups:
            for tensor in [] if group["is_new"] else group["params"]:
                local(tensor).lerp_(local(self._start[tensor]), group["lr"] * self._pull)

    def saved(self, tensor: Tensor) -> dict[str, Tensor]:
        """What a checkpoint holds of a stepped tensor. A pretrained start is read from the pretrained model again."""
        found = {AVERAGE: self._average[tensor]} if self._average else {}
        return found | ({START: self._start[tensor]} if self._keeps_start and self._stepped[tensor] else {})

    def of(self, slot: str) -> dict[Tensor, Tensor] | None:
        """The copies of that name, None for a moment of the optimizer's own."""
        return {AVERAGE: self._average, START: self._start}.get(slot)

    @torch.no_grad()
    def begin(self) -> None:
        """Take the weights that were just loaded for what the checkpoint may lack.

        An average begins where a parameter begins to learn; what a new parameter starts from is what it was when it
        was first kept.
        """
        for tensor, is_new in self._stepped.items():
            if self._average:
                local(self._average[tensor]).copy_(local(tensor))
            if self._keeps_start and is_new:
                local(self._start[tensor]).copy_(local(tensor))

    @torch.no_grad()
    def take_in(self, weight: float) -> None:
        """average ← (1 − weight)·average + weight·w."""
        for tensor, average in self._average.items():
            local(average).lerp_(local(tensor), weight)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange weights and average, to the last bit."""
        for tensor, average in self._average.items():
            held = local(tensor).clone()
            local(tensor).copy_(local(average))
            local(average).copy_(held)

    @torch.no_grad()
    def mix(self, share: float) -> None:
        """w ← (1 − share)·start + share·end, the end being the weights at the first call."""
        assert self._keeps_start
        self._end = self._end or _copies(self._stepped)
        for tensor, end in self._end.items():
            torch.lerp(local(self._start[tensor]), local(end), share, out=local(tensor))


def _copies(tensors: Iterable[Tensor]) -> dict[Tensor, Tensor]:
    return {tensor: tensor.detach().clone() for tensor in tensors}


def local(tensor: Tensor) -> Tensor:
    """This rank's part, sharing memory."""
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()
