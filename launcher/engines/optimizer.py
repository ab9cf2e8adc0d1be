"""The optimizer of a job, with every value explicit, since libraries differ in their defaults."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from launcher.engines.base import ParamOptions
from launcher.engines.schedule_free import make_schedule_free
from launcher.job.sections.training import Optimizer


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]], spec: Optimizer, treatments: Mapping[str, ParamOptions]
) -> list[dict[str, Any]]:
    """Group the trainable parameters by their options. Call this before anything flattens the parameters.

    Weight decay applies to matrices, not to vectors such as biases and normalisation weights. A flattened group has one
    step counter, so parameters that are unfrozen later have groups of their own. No group is empty, since ZeRO-3
    miscounts empty groups.
    """
    groups: dict[tuple[ParamOptions, bool], dict[str, Any]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            treatment, is_matrix = treatments.get(name, ParamOptions()), parameter.ndim >= 2
            group = {
                "params": [],
                "weight_decay": spec.weight_decay if is_matrix else 0.0,
                "lr_factor": treatment.factor,
                "is_new": treatment.is_new,
            }
            groups.setdefault((treatment, is_matrix), group)["params"].append(parameter)
    return list(groups.values())


def make_optimizer(groups: list[dict[str, Any]], spec: Optimizer) -> torch.optim.Optimizer:
    """The optimizer that `spec` describes, over `parameter_groups`."""
    is_sharded = any(isinstance(parameter, DTensor) for group in groups for parameter in group["params"])
    if spec.name == "schedule_free_adamw":
        return make_schedule_free(groups, lr=spec.lr, betas=spec.betas, eps=spec.eps, foreach=not is_sharded)
    if spec.name == "sgd":  # fused SGD does not support shards
        return torch.optim.SGD(groups, lr=spec.lr, momentum=spec.momentum, fused=not is_sharded)
    return torch.optim.AdamW(groups, lr=spec.lr, betas=spec.betas, eps=spec.eps, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of the next step, multiplied by each group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
