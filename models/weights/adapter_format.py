"""The interface of a stored adapter format of `peft`: its tensors, and how they change the base weights."""

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
    """A linear layer of the base model and the tensors stored for it.

    name: of the layer in the model; folder: of the adapters; both for messages
    base: its parameters, `weight` and possibly `bias`
    added: the stored tensors in fp32, by the names in `parts`
    transposed: whether its weight is [inputs, outputs]
    """

    name: str
    folder: Path
    base: Mapping[str, LazyTensor]
    added: Mapping[str, Tensor]
    transposed: bool


class AdapterFormat(ABC):
    """One format, for a `peft_type`."""

    parts: ClassVar[tuple[str, ...]]
    """Suffixes of its tensors' names after the layer's name."""

    @abstractmethod
    def unsupported(self, config: Mapping[str, Any], names: Iterable[str]) -> str | None:
        """What is not supported in a folder; None if all of it is."""

    @abstractmethod
    def adapted(self, layer: AdaptedLayer, config: Mapping[str, Any]) -> dict[str, LazyTensor]:
        """The layer's parameters with the adapters merged. Raises ModelError for tensors that do not fit it."""
