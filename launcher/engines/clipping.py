"""The norm of the whole gradient, alike however it is cut, and clipping by it.

On CPUs torch adds up the squares of a tensor in float32, one after the other: of 28 million values the norm is 1.6e-3
too small, and of halves less. So with clipping a step would depend on who holds which slice.
`tests/engines/test_clipping.py` shows both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

CHUNK = 2**14
"""Values whose squares are added up in float32."""


def sum_of_squares(gradients: Sequence[Tensor]) -> Tensor:
    """Over all values of all tensors, a float64 scalar on the CPU."""
    parts = [part for gradient in gradients for part in _parts(gradient.detach())]
    if not parts:
        return torch.zeros((), dtype=torch.float64)
    return torch.stack(list(torch._foreach_norm(parts))).double().square().sum().cpu()


def scale_to(gradients: Sequence[Tensor], norm: float, limit: float) -> None:
    """Scale the tensors, whose norm together with what other ranks hold is `norm`, where that is above the limit."""
    factor = limit / (norm + 1e-6)  # as torch.nn.utils.clip_grad_norm_ does
    if factor < 1.0 and gradients:
        torch._foreach_mul_(list(gradients), factor)


def _parts(gradient: Tensor) -> Sequence[Tensor]:
    """GPUs add up in a tree, which loses next to nothing."""
    return gradient.reshape(-1).split(CHUNK) if gradient.device.type == "cpu" and gradient.numel() else [gradient]
