"""The optimizer of a job, with every value explicit: libraries differ in their defaults."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from launcher.job.schema import Optimizer


def make_optimizer(parameters: Iterable[nn.Parameter], spec: Optimizer) -> torch.optim.Optimizer:
    """The optimizer that `spec` describes, over the parameters that learn.

    Matrices decay; biases and normalisation weights, which are vectors, do not.
    """
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [p for p in learning if p.ndim >= 2], "weight_decay": spec.weight_decay},
        {"params": [p for p in learning if p.ndim < 2], "weight_decay": 0.0},
    ]
    if spec.name == "sgd":
        is_sharded = any(isinstance(parameter, DTensor) for parameter in learning)  # fused SGD knows no slices
        return torch.optim.SGD(groups, lr=spec.lr, momentum=spec.momentum, fused=not is_sharded)
    return torch.optim.AdamW(groups, lr=spec.lr, betas=spec.betas, eps=spec.eps, fused=True)
