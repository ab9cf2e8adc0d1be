"""How much memory this rank uses."""

from __future__ import annotations

import psutil
import torch

_PROCESS = psutil.Process()


def memory_in_use(device: torch.device) -> int:
    """Bytes: on a GPU the most that tensors have taken so far, else what the process holds now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    held: int = _PROCESS.memory_info().rss
    return held
