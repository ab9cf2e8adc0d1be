"""Merge adapters in `peft`'s format into the weights of their base; here the table of the supported formats."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from launcher.errors import ModelError
from launcher.job.model_files import headers_of, read_object
from launcher.job.pretrained import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from launcher.models.weights.adapter_format import AdaptedLayer, AdapterFormat
from launcher.models.weights.low_rank import LowRankFormat
from launcher.models.weights.stored import LazyTensor, LazyTensors, MemoryTensor, readable

FORMATS: Mapping[str, AdapterFormat] = {"LORA": LowRankFormat()}
"""By `peft_type` of the config."""
PREFIX = "base_model.model."
"""Prefix that `peft` adds to the base's names."""
_PART = "|".join(re.escape(part) for known in FORMATS.values() for part in known.parts)
IN_A_MODEL = re.compile(rf"({_PART})\.default(?=\.|$)")
"""Part of the names of adapters in a model; `default` is `peft`'s name for them."""
IN_A_FOLDER = re.compile(rf"^(?:{re.escape(PREFIX)})?(?P<layer>.+)(?P<part>{_PART})(?:\.weight)?$")


def add_adapters(folder: Path, model: nn.Module, stored: LazyTensors) -> set[str]:
    """Merge the adapters of `folder` into a model, in memory or lazily for weights still in files (`stored`).

    Returns the names of the parameters that the folder stores whole, such as a head's.
    Raises ModelError for an unsupported folder, or for adapters of another model.
    """
    config, tensors = _read(folder)
    parameters, modules = dict(model.named_parameters()), dict(model.named_modules())
    whole, added = _whole_and_added(tensors)
    lacking = sorted({name for name in {*whole, *(f"{layer}.weight" for layer in added)} if name not in parameters})
    if lacking:
        raise ModelError(f"{folder} holds adapters for {lacking[0]}, which {type(model).__name__} does not have")
    for name, tensor in whole.items():
        if tensor.shape != parameters[name].shape:
            raise ModelError(f"{folder} holds a {name} of another shape than {type(model).__name__} has")
        _put(parameters[name], MemoryTensor(tensor), stored)
    for name, own in added.items():
        base = dict(modules[name].named_parameters(recurse=False))
        readables = {key: readable(parameter, stored) for key, parameter in base.items()}
        layer = AdaptedLayer(name, folder, readables, own, transposed=is_transposed(modules[name]))
        for key, value in FORMATS[config["peft_type"]].adapted(layer, config).items():
            _put(base[key], value, stored)
    return set(whole)


def adapter_name(name: str, whole: tuple[str, ...]) -> str | None:
    """A tensor's name in an adapter folder, None for a tensor that is not stored there.

    name: of the model's parameter, with the parts that `peft` adds; whole: modules that are trained whole
    """
    if is_added(name):
        return PREFIX + IN_A_MODEL.sub(r"\1", name)
    return PREFIX + name if name.startswith(tuple(f"{module}." for module in whole)) else None


def is_added(name: str) -> bool:
    """Whether a parameter of a model belongs to adapters."""
    return IN_A_MODEL.search(name) is not None


def is_transposed(module: nn.Module) -> bool:
    """Whether a linear layer's weight is [inputs, outputs]."""
    return type(module).__name__ == "Conv1D"


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config, and the tensors in fp32."""
    try:
        config = read_object(folder / ADAPTER_CONFIG)
        headers_of(folder / ADAPTER_WEIGHTS)
        tensors = load_file(folder / ADAPTER_WEIGHTS)
    except ModelError as error:
        raise ModelError(f"the adapters in {folder} cannot be read: {error}") from error
    kind = config.get("peft_type")
    known = FORMATS.get(kind) if isinstance(kind, str) else None
    unsupported = f"peft_type {kind}" if known is None else known.unsupported(config, tensors)
    if unsupported is not None:
        raise ModelError(
            f"{folder} holds adapters of an unsupported kind ({unsupported}); merge them with peft: "
            "PeftModel.from_pretrained(BASE, FOLDER).merge_and_unload().save_pretrained(ANOTHER)"
        )
    return config, {name: tensor.float() for name, tensor in tensors.items()}


def _whole_and_added(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """The tensors stored whole, by parameter name, and the adapters' tensors, by layer and part."""
    whole: dict[str, Tensor] = {}
    added: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        found = IN_A_FOLDER.match(name)
        if found is None:
            whole[name.removeprefix(PREFIX)] = tensor
        else:
            added[found["layer"]][found["part"]] = tensor
    return whole, added


def _put(parameter: nn.Parameter, value: LazyTensor, stored: LazyTensors) -> None:
    """Set a parameter's value: lazily if the parameter is still in its file, else now."""
    if parameter.is_meta:
        stored[parameter] = value
    else:
        parameter.data.copy_(value.whole())
