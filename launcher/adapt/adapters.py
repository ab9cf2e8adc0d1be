"""What a method has added to a model whose own weights stay as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


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
        return f"adapters: {self.learning:,} of {self.parameters:,} parameters learn ({share:.2g} %)"
