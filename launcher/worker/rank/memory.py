"""Memory use of this rank."""

from __future__ import annotations

import psutil
import torch


def memory_in_use(device: torch.device) -> int:
    """Bytes: on a GPU the peak of tensors so far, else the current memory of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    held: int = psutil.Process().memory_info().rss
    return held
