"""What schedule-free AdamW (Defazio et al. 2024, arXiv:2405.15682) needs beyond a step.

Its gradients are taken at y, its result is x, an average of steps; the tensors hold y while training goes on. Which of
x and y they hold, and how far the average is, is of each group, so that goes into the checkpoint with the moments.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor

from launcher.engines.base import local

COUNTERS = ("k", "weight_sum", "lr_max")
"""Steps, the sum of their weights, and the largest rate so far."""


def make_schedule_free(groups: list[dict[str, Any]], *, foreach: bool, **settings: Any) -> torch.optim.Optimizer:
    """The optimizer of the package `schedulefree`, about to train; its own warm-up is off, since the schedule warms."""
    from schedulefree import AdamWScheduleFree

    optimizer: torch.optim.Optimizer = AdamWScheduleFree(groups, foreach=foreach, **settings)
    optimizer.train()  # type: ignore[attr-defined]
    return optimizer


def is_schedule_free(optimizer: torch.optim.Optimizer) -> bool:
    """Whether its result is not what it steps."""
    return "weight_sum" in optimizer.defaults


def counters(group: Mapping[str, Any]) -> dict[str, Tensor]:
    """What a checkpoint holds of a group, beside each tensor's moments."""
    return {name: torch.tensor(group[name], dtype=torch.float64) for name in COUNTERS if name in group}


def take_counters(group: dict[str, Any], moments: MutableMapping[str, Tensor]) -> None:
    """Take over what `counters` gave, out of a tensor's moments."""
    for name in COUNTERS:
        if name in group and name in moments:
            group[name] = type(group[name])(moments.pop(name).item())


class Result:
    """Goes from y to x and back to the same y, bit by bit: y cannot be computed from x and z without rounding."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._held: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def swap(self) -> None:
        """To x, or back."""
        groups = self._optimizer.param_groups
        if not self._held:
            self._held = {tensor: local(tensor).clone() for group in groups for tensor in group["params"]}
            self._optimizer.eval()  # type: ignore[attr-defined]
            return
        for tensor, held in self._held.items():
            local(tensor).copy_(held)
        self._held = {}
        for group in groups:
            group["train_mode"] = True
