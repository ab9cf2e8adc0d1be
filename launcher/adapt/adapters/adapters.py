"""What adapters have added to a model whose own weights stay as they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from launcher.job.pretrained import Pretrained
from launcher.models.weights.adapters import adapter_name


@dataclass(frozen=True)
class AdapterContext:
    """What adding adapters has to know of the run beside its own settings.

    pretrained, revision: where the model came from
    auto_class: name of the `transformers` class that loads the task's models
    device: where this process computes; precision: in what
    """

    pretrained: Pretrained
    revision: str | None
    auto_class: str
    seed: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: str = "fp32"


@dataclass(frozen=True)
class Adapters:
    """The description of added weights.

    config: what `peft` writes beside them
    base: identity of the weights they were added to, which a run that goes on must find again
    learning, parameters: how many numbers learn, and of how many
    """

    config: dict[str, Any]
    base: str
    learning: int
    parameters: int

    def __str__(self) -> str:
        share = 100 * self.learning / self.parameters
        return f"adapters: {self.learning:,} of {self.parameters:,} parameters are trained ({share:.2g} %)"


def kept_in_base(model: nn.Module, adapters: Adapters) -> set[str]:
    """Names of the parameters that never learn and are no part of an adapter folder."""
    whole = tuple(adapters.config["modules_to_save"] or ())
    return {
        name
        for name, parameter in model.named_parameters()
        if not parameter.requires_grad and adapter_name(name, whole) is None
    }
