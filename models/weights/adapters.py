"""Adapters as `peft` stores them, added to the weights of their base; here the table of the kinds that are read."""

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
"""What `peft` puts before the base's own names."""
_PART = "|".join(re.escape(part) for known in FORMATS.values() for part in known.parts)
IN_A_MODEL = re.compile(rf"({_PART})\.default(?=\.|$)")
"""In the names of adapters in a model; `default` is what `peft` calls them."""
IN_A_FOLDER = re.compile(rf"^(?:{re.escape(PREFIX)})?(?P<layer>.+)(?P<part>{_PART})(?:\.weight)?$")


def add_adapters(folder: Path, model: nn.Module, stored: LazyTensors) -> set[str]:
    """Add the adapters of `folder` to a model, in memory or (`stored`) where its weights are to be read.

    Returns the names of the parameters that the folder holds whole, such as a head's.
    Raises ModelError for what are no such adapters, or those of another model.
    """
    config, tensors = _read(folder)
    parameters, modules = dict(model.named_parameters()), dict(model.named_modules())
    whole, added = _whole_and_added(tensors)
    lacking = sorted({name for name in {*whole, *(f"{layer}.weight" for layer in added)} if name not in parameters})
    if lacking:
        raise ModelError(f"{folder} holds adapters for {lacking[0]}, which {type(model).__name__} does not have")
    for name, tensor in whole.items():
        if tensor.shape != parameters[name].shape:
            raise ModelError(f"{folder} holds a {name} of another size than {type(model).__name__} has")
        _put(parameters[name], MemoryTensor(tensor), stored)
    for name, own in added.items():
        base = dict(modules[name].named_parameters(recurse=False))
        readables = {key: readable(parameter, stored) for key, parameter in base.items()}
        layer = AdaptedLayer(name, folder, readables, own, transposed=is_transposed(modules[name]))
        for key, value in FORMATS[config["peft_type"]].adapted(layer, config).items():
            _put(base[key], value, stored)
    return set(whole)


def adapter_name(name: str, whole: tuple[str, ...]) -> str | None:
    """A tensor's name in an adapter folder, None for what does not belong there.

    name: of the model's parameter, with what `peft` puts into it; whole: modules that learn without adapters
    """
    if is_added(name):
        return PREFIX + IN_A_MODEL.sub(r"\1", name)
    return PREFIX + name if name.startswith(tuple(f"{module}." for module in whole)) else None


def is_added(name: str) -> bool:
    """Whether a parameter of a model is one that adapters have added to it."""
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
    strange = f"peft_type {kind}" if known is None else known.strange(config, tensors)
    if strange is not None:
        raise ModelError(
            f"{folder} holds adapters that are not plain LoRA or DoRA ({strange}); let peft merge them: "
            "PeftModel.from_pretrained(BASE, FOLDER).merge_and_unload().save_pretrained(ANOTHER)"
        )
    return config, {name: tensor.float() for name, tensor in tensors.items()}


def _whole_and_added(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """What is stored whole, by the parameter's name, and what was added, by the layer's name and the part's."""
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
    """Where the parameter is still to be read, read it there; else take it now."""
    if parameter.is_meta:
        stored[parameter] = value
    else:
        parameter.data.copy_(value.whole())
