"""Low-rank adapters as `peft` stores them, added to the weights of their base.

A matrix W with adapters A and B is W + s·B·A; with DoRA (arXiv:2402.09353) each of its output's weight vectors is then
brought to a length that was learnt. Either is computed where it is read, so nobody needs the whole of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from launcher.errors import ModelError
from launcher.job.model_files import headers_of, read_object
from launcher.job.pretrained import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from launcher.models.weights.stored import LazyTensor, LazyTensors, MemoryTensor, readable

PREFIX = "base_model.model."
"""What `peft` puts before the base's own names."""
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
"""What a config may ask for that makes something else of a layer than W + s·B·A."""
BESIDE_THE_BASE = (True, False, None, "gaussian", "eva", "orthogonal")
"""Ways to start adapters that leave W as it is; others, such as PiSSA, take a part out of it."""


@dataclass(frozen=True)
class AdaptedTensor(LazyTensor):
    """A matrix with adapters added to it.

    base: W, [outputs, inputs], or [inputs, outputs] where `transposed` (as GPT-2's are)
    down, up: A [rank, inputs] and B [outputs, rank]
    magnitude: [outputs], the length of each output's weights; None without DoRA
    """

    base: LazyTensor
    down: Tensor
    up: Tensor
    scaling: float
    magnitude: Tensor | None
    transposed: bool

    @property
    def shape(self) -> torch.Size:  # type: ignore[override]
        """As the base's."""
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
    """[outputs] the length of each output's weights."""
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


def add_adapters(folder: Path, model: nn.Module, stored: LazyTensors) -> set[str]:
    """Add the adapters of `folder` to a model, in memory or (`stored`) where its weights are to be read.

    Returns the names of the parameters that the folder holds whole, such as a head's.
    Raises ModelError for what are no such adapters, or those of another model.
    """
    config, tensors = _read(folder)
    parameters, modules = dict(model.named_parameters()), dict(model.named_modules())
    whole = {name for name in tensors if not any(part in name for part in (DOWN, UP, MAGNITUDE))}
    targets = {name.removesuffix(f"{DOWN}.weight") for name in tensors if name.endswith(f"{DOWN}.weight")}
    lacking = sorted({name for name in whole | {f"{target}.weight" for target in targets} if name not in parameters})
    if lacking:
        raise ModelError(f"{folder} holds adapters for {lacking[0]}, which {type(model).__name__} does not have")
    for name in whole:
        if tensors[name].shape != parameters[name].shape:
            raise ModelError(f"{folder} holds a {name} of another size than {type(model).__name__} has")
        _put(parameters[name], MemoryTensor(tensors[name]), stored)
    for target in targets:
        parameter, up = parameters[f"{target}.weight"], tensors.get(f"{target}{UP}.weight")
        if up is None:
            raise ModelError(f"{folder} holds one half of the adapters for {target}; download or save it again")
        adapted = AdaptedTensor(
            readable(parameter, stored),
            tensors[f"{target}{DOWN}.weight"],
            up,
            _scaling(folder, config, len(up.T)),
            tensors.get(f"{target}{MAGNITUDE}"),
            transposed=is_transposed(modules[target]),
        )
        if not _fits(adapted):
            raise ModelError(f"{folder} holds adapters for a {target} of another size than the base's")
        _put(parameter, adapted, stored)
    return whole


def _fits(adapted: AdaptedTensor) -> bool:
    """Whether the shapes of adapters go with each other and with the weight."""
    down, up, magnitude = adapted.down, adapted.up, adapted.magnitude
    if not (len(adapted.shape) == down.dim() == up.dim() == 2):
        return False
    inputs, outputs = adapted.shape if adapted.transposed else reversed(adapted.shape)
    is_long_enough = magnitude is None or magnitude.shape == (outputs,)
    return down.shape == (up.shape[1], inputs) and up.shape[0] == outputs and is_long_enough


def adapter_name(name: str, whole: tuple[str, ...]) -> str | None:
    """A tensor's name in an adapter folder, None for what does not belong there.

    name: of the model's parameter, with what `peft` puts into it; whole: modules that learn without adapters
    """
    if any(f"{part}.default." in name for part in (DOWN, UP, MAGNITUDE)):
        # `peft` itself leaves out the `.weight` of a magnitude, and `transformers` then does not find it
        return PREFIX + name.replace(".default.", ".")
    return PREFIX + name if name.startswith(tuple(f"{module}." for module in whole)) else None


def is_transposed(module: nn.Module) -> bool:
    """Whether a linear layer's weight is [inputs, outputs]."""
    return type(module).__name__ == "Conv1D"


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config, and the tensors in fp32 by the base's names."""
    try:
        config = read_object(folder / ADAPTER_CONFIG)
        headers_of(folder / ADAPTER_WEIGHTS)
        tensors = load_file(folder / ADAPTER_WEIGHTS)
    except ModelError as error:
        raise ModelError(f"the adapters in {folder} cannot be read: {error}") from error
    named = {
        name.removeprefix(PREFIX).replace(f"{MAGNITUDE}.weight", MAGNITUDE): tensor.float()
        for name, tensor in tensors.items()
    }
    unusual = [name for name in named if "lora_" in name and not name.endswith((".weight", MAGNITUDE))]
    patterns = [key for key in UNUSUAL if config.get(key)]
    start = config.get("init_lora_weights", True)
    starts = [] if start in BESIDE_THE_BASE else [f"init_lora_weights {start}"]
    if config.get("peft_type") != "LORA" or unusual or patterns or starts:
        strange = next(iter([*unusual, *patterns, *starts]), f"peft_type {config.get('peft_type')}")
        raise ModelError(
            f"{folder} holds adapters that are not plain LoRA or DoRA ({strange}); let peft merge them: "
            "PeftModel.from_pretrained(BASE, FOLDER).merge_and_unload().save_pretrained(ANOTHER)"
        )
    return config, named


def _scaling(folder: Path, config: Mapping[str, Any], rank: int) -> float:
    """rank: of these adapters, which a pattern of the config may set apart from the others"""
    alpha = config.get("lora_alpha")
    if not isinstance(alpha, int | float) or rank < 1:
        raise ModelError(f"{folder / ADAPTER_CONFIG} says no scale of the adapters: lora_alpha is {alpha!r}")
    return alpha / (sqrt(rank) if config.get("use_rslora") else rank)


def _put(parameter: nn.Parameter, value: LazyTensor, stored: LazyTensors) -> None:
    """Where the parameter is still to be read, read it there; else take it now."""
    if parameter.is_meta:
        stored[parameter] = value
    else:
        parameter.data.copy_(value.whole())
