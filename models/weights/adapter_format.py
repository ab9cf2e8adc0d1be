"""What is asked of a kind of adapters that `peft` stores: which tensors are its own, and what they make of the base."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from launcher.models.weights.stored import LazyTensor


@dataclass(frozen=True)
class AdaptedLayer:
    """A linear layer of the base and what is stored for it.

    name: in the model; folder: of the adapters; both for messages
    base: its parameters, `weight` and perhaps `bias`
    added: the stored tensors in fp32, by the format's parts
    transposed: whether its weight is [inputs, outputs]
    """

    name: str
    folder: Path
    base: Mapping[str, LazyTensor]
    added: Mapping[str, Tensor]
    transposed: bool


class AdapterFormat(ABC):
    """One kind, by its `peft_type`."""

    parts: ClassVar[tuple[str, ...]]
    """What the names of its tensors have after the name of the layer."""

    @abstractmethod
    def strange(self, config: Mapping[str, Any], names: Iterable[str]) -> str | None:
        """What of a folder is of no form that is read here; None where all is."""

    @abstractmethod
    def adapted(self, layer: AdaptedLayer, config: Mapping[str, Any]) -> dict[str, LazyTensor]:
        """What becomes of the layer's parameters. Raises ModelError for tensors that do not go with it."""
