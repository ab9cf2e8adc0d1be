"""The optimizer of a job, with every value explicit: libraries differ in their defaults."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from launcher.job.schema import Optimizer


def parameter_groups(parameters: Iterable[nn.Parameter], spec: Optimizer) -> list[dict[str, Any]]:
    """The parameters that learn, grouped by weight decay; to be called before anything flattens them.

    Matrices decay; biases and normalisation weights, which are vectors, do not.
    """
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    return [
        {"params": [p for p in learning if p.ndim >= 2], "weight_decay": spec.weight_decay},
        {"params": [p for p in learning if p.ndim < 2], "weight_decay": 0.0},
    ]


def make_optimizer(groups: list[dict[str, Any]], spec: Optimizer) -> torch.optim.Optimizer:
    """The optimizer that `spec` describes, over `parameter_groups`."""
    if spec.name == "sgd":
        # Fused SGD knows no slices.
        is_sharded = any(isinstance(parameter, DTensor) for group in groups for parameter in group["params"])
        return torch.optim.SGD(groups, lr=spec.lr, momentum=spec.momentum, fused=not is_sharded)
    return torch.optim.AdamW(groups, lr=spec.lr, betas=spec.betas, eps=spec.eps, fused=True)
