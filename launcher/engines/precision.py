"""What forward and backward compute in, and the scale of the loss in fp16."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
GROWTH, BACK_OFF, INTERVAL = 2.0, 0.5, 2000


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Inside, forward passes compute in a precision of the job; fp32 is as they are."""
    return torch.autocast(device.type, AUTOCAST.get(precision), enabled=precision in AUTOCAST)


@dataclass
class LossScale:
    """What the loss is multiplied by, and how many steps in a row had a finite gradient since it changed.

    It moves as `torch.amp.GradScaler` moves it, for libraries that unscale gradients themselves.
    """

    scale: float = 65536.0
    growth_tracker: int = 0

    def update(self, is_finite: bool) -> None:
        """Take in whether the gradient of a step was finite."""
        self.growth_tracker = self.growth_tracker + 1 if is_finite else 0
        if not is_finite:
            self.scale *= BACK_OFF
        elif self.growth_tracker == INTERVAL:
            self.scale, self.growth_tracker = self.scale * GROWTH, 0

    def state(self) -> dict[str, Tensor]:
        """Under the names of `GradScaler.state_dict`, so that checkpoints go from one to the other."""
        return {"scale": torch.tensor(self.scale), "_growth_tracker": torch.tensor(self.growth_tracker)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave."""
        self.scale, self.growth_tracker = float(state["scale"]), int(state["_growth_tracker"])
