"""The norm of the whole gradient, the same however the gradient is sharded, and clipping by it.

On CPUs torch adds up the squares of a tensor in float32, one after the other. For 28 million values the norm is 1.6e-3
too small; for shards of them the error is smaller. So with clipping a step would depend on the sharding.
`tests/engines/test_clipping.py` shows both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

CHUNK = 2**14
"""Values whose squares are added up in float32."""


def sum_of_squares(gradients: Sequence[Tensor]) -> Tensor:
    """The sum of squares over all values of all tensors, a float64 scalar on the CPU."""
    parts = [part for gradient in gradients for part in _parts(gradient.detach())]
    if not parts:
        return torch.zeros((), dtype=torch.float64)
    return torch.stack(list(torch._foreach_norm(parts))).double().square().sum().cpu()


def scale_to(gradients: Sequence[Tensor], norm: float, limit: float) -> None:
    """Scale the tensors down if `norm`, the norm over the shards of all ranks, exceeds the limit."""
    factor = limit / (norm + 1e-6)  # as torch.nn.utils.clip_grad_norm_ does
    if factor < 1.0 and gradients:
        torch._foreach_mul_(list(gradients), factor)


def _parts(gradient: Tensor) -> Sequence[Tensor]:
    """Chunks on the CPU; on GPUs the whole tensor, since tree summation loses almost no precision."""
    return gradient.reshape(-1).split(CHUNK) if gradient.device.type == "cpu" and gradient.numel() else [gradient]
