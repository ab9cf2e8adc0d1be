"""A number for each output of a layer, as `peft` stores it: (IA)³ without its kind for feed-forward layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from launcher.errors import ModelError
from launcher.models.weights.adapter_format import AdaptedLayer, AdapterFormat
from launcher.models.weights.stored import LazyTensor

SCALES = ".ia3_l"


@dataclass(frozen=True)
class ScaledTensor(LazyTensor):
    """A weight or bias whose outputs are multiplied by [outputs] scales."""

    base: LazyTensor
    scales: Tensor
    outputs_last: bool

    @property
    def shape(self) -> torch.Size:  # type: ignore[override]
        """As the base's."""
        return self.base.shape

    def rows(self, start: int, stop: int) -> Tensor:
        """Some rows, on the CPU in fp32."""
        rows = self.base.rows(start, stop)
        if self.outputs_last:
            return rows * self.scales
        return rows * self.scales[start:stop].reshape(-1, *[1] * (rows.ndim - 1))


class ScalesFormat(AdapterFormat):
    """Of all its layers the outputs are multiplied."""

    parts: ClassVar[tuple[str, ...]] = (SCALES,)

    def unsupported(self, config: Mapping[str, Any], names: Iterable[str]) -> str | None:
        """Layers whose inputs are multiplied."""
        return "feedforward_modules" if config.get("feedforward_modules") else None

    def adapted(self, layer: AdaptedLayer, config: Mapping[str, Any]) -> dict[str, LazyTensor]:
        """The weight and the bias."""
        scales = layer.added[SCALES].flatten()
        if len(scales) != layer.base["weight"].shape[1 if layer.transposed else 0]:
            raise ModelError(f"{layer.folder} holds adapters for a {layer.name} of another size than the base's")
        return {
            name: ScaledTensor(value, scales, outputs_last=layer.transposed and name == "weight")
            for name, value in layer.base.items()
        }
