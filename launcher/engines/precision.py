"""The precision of forward and backward, and loss scaling in fp16."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
GROWTH, BACK_OFF, INTERVAL = 2.0, 0.5, 2000


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Autocast to the job's precision; disabled for fp32."""
    return torch.autocast(device.type, AUTOCAST.get(precision), enabled=precision in AUTOCAST)


@dataclass
class LossScale:
    """The loss scale, and the number of consecutive steps with a finite gradient since it last changed.

    It grows and backs off as in `torch.amp.GradScaler`, for libraries that unscale gradients themselves.
    """

    scale: float = 65536.0
    growth_tracker: int = 0

    def update(self, is_finite: bool) -> None:
        """Update the scale, given whether a step's gradient was finite."""
        self.growth_tracker = self.growth_tracker + 1 if is_finite else 0
        if not is_finite:
            self.scale *= BACK_OFF
        elif self.growth_tracker == INTERVAL:
            self.scale, self.growth_tracker = self.scale * GROWTH, 0

    def state(self) -> dict[str, Tensor]:
        """The state under the names of `GradScaler.state_dict`, so that either can load the other's."""
        return {"scale": torch.tensor(self.scale), "_growth_tracker": torch.tensor(self.growth_tracker)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load what `state` returned."""
        self.scale, self.growth_tracker = float(state["scale"]), int(state["_growth_tracker"])
