"""What schedule-free AdamW (Defazio et al. 2024, arXiv:2405.15682) needs in addition to a step.

Gradients are computed at y. The result is x, an average over steps. The tensors hold y during training. Each group has
counters of its average, which are saved in the checkpoint with the moments.
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
    """The optimizer of the package `schedulefree`, in training mode, without its own warm-up (the schedule has one)."""
    from schedulefree import AdamWScheduleFree

    optimizer: torch.optim.Optimizer = AdamWScheduleFree(groups, foreach=foreach, **settings)
    optimizer.train()  # type: ignore[attr-defined]
    return optimizer


def is_schedule_free(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer's result differs from the weights that it updates."""
    return "weight_sum" in optimizer.defaults


def counters(group: Mapping[str, Any]) -> dict[str, Tensor]:
    """The group's values that a checkpoint stores in addition to each tensor's moments."""
    return {name: torch.tensor(group[name], dtype=torch.float64) for name in COUNTERS if name in group}


def take_counters(group: dict[str, Any], moments: MutableMapping[str, Tensor]) -> None:
    """Load what `counters` gave, and remove it from a tensor's moments."""
    for name in COUNTERS:
        if name in group and name in moments:
            group[name] = type(group[name])(moments.pop(name).item())


class Result:
    """Switches from y to x and back to the same y, bit for bit: computing y from x and z would round."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._held: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def swap(self) -> None:
        """Switch to x, or back to y."""
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
