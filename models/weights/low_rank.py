"""Low-rank adapters in `peft`'s format.

A matrix W with adapters A and B is W + s·B·A. With DoRA (arXiv:2402.09353) the weight vector of each output is then
scaled to a trained norm. Both are computed lazily, for the rows that are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import sqrt
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from launcher.errors import ModelError
from launcher.job.pretrained import ADAPTER_CONFIG
from launcher.models.weights.adapter_format import AdaptedLayer, AdapterFormat
from launcher.models.weights.stored import LazyTensor

DOWN, UP, MAGNITUDE = ".lora_A", ".lora_B", ".lora_magnitude_vector"
ROWS_AT_ONCE = 4096
UNUSUAL = (
    "alpha_pattern",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
)
"""Options of a config with which a layer is not W + s·B·A."""
KEEPING_THE_BASE = (True, False, None, "gaussian", "eva", "orthogonal")
"""Initialisations of adapters that leave W unchanged; others, such as PiSSA, subtract from it."""


@dataclass(frozen=True)
class AdaptedTensor(LazyTensor):
    """A matrix with adapters merged into it.

    base: W, [outputs, inputs], or [inputs, outputs] if `transposed` (as in GPT-2)
    down, up: A [rank, inputs] and B [outputs, rank]
    magnitude: [outputs], the norm of each output's weights; None without DoRA
    """

    base: LazyTensor
    down: Tensor
    up: Tensor
    scaling: float
    magnitude: Tensor | None
    transposed: bool

    @property
    def shape(self) -> torch.Size:  # type: ignore[override]
        """The shape of the base."""
        return self.base.shape

    def rows(self, start: int, stop: int) -> Tensor:
        """Some rows, on the CPU in fp32."""
        added = self._added(start, stop)
        if self.magnitude is None:
            return added
        if self.transposed:
            return added * (self.magnitude / self._lengths)
        return added * (self.magnitude[start:stop] / added.norm(dim=1)).unsqueeze(1)

    @cached_property
    def _lengths(self) -> Tensor:
        return output_lengths(replace(self, magnitude=None), transposed=True)

    def _added(self, start: int, stop: int) -> Tensor:
        change = self.down[:, start:stop].T @ self.up.T if self.transposed else self.up[start:stop] @ self.down
        return self.base.rows(start, stop) + self.scaling * change


def output_lengths(weight: LazyTensor, *, transposed: bool) -> Tensor:
    """[outputs] the norm of each output's weights."""
    rows = weight.shape[0]
    squares = torch.zeros(weight.shape[1 if transposed else 0])
    for start in range(0, rows, ROWS_AT_ONCE):
        stop = min(start + ROWS_AT_ONCE, rows)
        part = weight.rows(start, stop).square()
        if transposed:
            squares += part.sum(0)
        else:
            squares[start:stop] = part.sum(1)
    return squares.sqrt_()


class LowRankFormat(AdapterFormat):
    """LoRA, rsLoRA and DoRA."""

    parts: ClassVar[tuple[str, ...]] = (DOWN, UP, MAGNITUDE)

    def unsupported(self, config: Mapping[str, Any], names: Iterable[str]) -> str | None:
        """Tensors other than A, B and magnitudes, or an option of the config that is not supported."""
        known = (f"{DOWN}.weight", f"{UP}.weight", MAGNITUDE, f"{MAGNITUDE}.weight")
        found = [name for name in names if "lora_" in name and not name.endswith(known)]
        found += [key for key in UNUSUAL if config.get(key)]
        start = config.get("init_lora_weights", True)
        found += [] if start in KEEPING_THE_BASE else [f"init_lora_weights {start}"]
        return next(iter(found), None)

    def adapted(self, layer: AdaptedLayer, config: Mapping[str, Any]) -> dict[str, LazyTensor]:
        """The merged weight."""
        down, up = layer.added.get(DOWN), layer.added.get(UP)
        if down is None or up is None:
            raise ModelError(
                f"{layer.folder} holds only one of the two matrices of the adapter for {layer.name}; "
                "download or save it again"
            )
        scaling = _scaling(layer.folder, config, len(up.T))
        magnitude = layer.added.get(MAGNITUDE)
        adapted = AdaptedTensor(layer.base["weight"], down, up, scaling, magnitude, layer.transposed)
        if not _fits(adapted):
            raise ModelError(f"{layer.folder} holds adapters for a {layer.name} of another shape than the base's")
        return {"weight": adapted}


def _fits(adapted: AdaptedTensor) -> bool:
    """Whether the shapes of the adapters fit each other and the weight."""
    down, up, magnitude = adapted.down, adapted.up, adapted.magnitude
    if not (len(adapted.shape) == down.dim() == up.dim() == 2):
        return False
    inputs, outputs = adapted.shape if adapted.transposed else reversed(adapted.shape)
    is_long_enough = magnitude is None or magnitude.shape == (outputs,)
    return down.shape == (up.shape[1], inputs) and up.shape[0] == outputs and is_long_enough


def _scaling(folder: Path, config: Mapping[str, Any], rank: int) -> float:
    """rank: of these adapters, which may differ from the others' by a pattern in the config"""
    alpha = config.get("lora_alpha")
    if not isinstance(alpha, int | float) or rank < 1:
        raise ModelError(f"{folder / ADAPTER_CONFIG} has no valid scale of the adapters: lora_alpha is {alpha!r}")
    return alpha / (sqrt(rank) if config.get("use_rslora") else rank)
