"""Low-rank adapters (LoRA, rsLoRA, DoRA) in a model, through `peft`.

The model object stays the same: `peft` replaces each target layer by a layer with adapters. A classifier's head is
trained whole, and so is every weight that the pretrained model lacks. They are not copied as with `peft`'s
`modules_to_save`: the old head is not needed, and a copy would take memory on the ranks. They are saved under the names
of `modules_to_save`, so `peft` can read them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.utils.integrations import dequantize_module_weight
from torch import nn

from launcher.adapt.adapters.adapters import TASK_TYPES, AdapterContext, Adapters, modules_that_learn, target_modules
from launcher.errors import ModelError
from launcher.job.sections.adapters import LowRank
from launcher.models.weights.adapters import is_transposed
from launcher.models.weights.loading import Loaded
from launcher.models.weights.low_rank import output_lengths
from launcher.models.weights.quantised import quantise
from launcher.models.weights.stored import MemoryTensor, readable

COMPUTED_IN = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def add_lora(spec: LowRank, loaded: Loaded, setting: AdapterContext) -> Adapters:
    """Freeze the model and add adapters to its linear layers; their initial values depend on the seed alone.

    Weights on the meta device stay there unless they are quantised to 4 bits; the adapters are in memory.
    Raises ModelError if the targets match no linear layer, or if the model does not support adapters.
    """
    model, base, came = loaded.model, loaded.identity, sum(parameter.numel() for parameter in loaded.model.parameters())
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        raise ModelError(
            f"{type(model).__name__} updates statistics of batches during training (BatchNorm), which "
            "adapters cannot store; remove adapt.adapters"
        )
    whole = modules_that_learn(loaded)
    targets = target_modules(model, spec.targets, whole)
    if spec.quantised:
        blocks = target_modules(model, "auto", whole)
        quantise(model, blocks, loaded.stored, setting.device, COMPUTED_IN[setting.precision])
    config = LoraConfig(
        base_model_name_or_path=setting.pretrained.location,
        revision=setting.revision,
        task_type=TASK_TYPES.get(setting.auto_class),
        r=spec.rank,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=targets,
        use_rslora=spec.is_rank_stabilised,
        use_dora=spec.has_magnitudes,
        fan_in_fan_out=is_transposed(model.get_submodule(targets[0])),
    )
    with _said_to_be_quantised(model, bool(spec.quantised)):
        inject_adapter_in_model(config, model, low_cpu_mem_usage=True)
    _start(loaded, targets, setting)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name or name.startswith(tuple(f"{module}." for module in whole)))
    described = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    learning = {name: parameter.numel() for name, parameter in model.named_parameters() if parameter.requires_grad}
    return Adapters(
        config=described | {"modules_to_save": whole or None, "inference_mode": True},
        base=base,
        learning=sum(learning.values()),
        parameters=came + sum(count for name, count in learning.items() if ".lora_" in name),
    )


@contextmanager
def _said_to_be_quantised(model: nn.Module, quantised: bool) -> Iterator[None]:
    """Set the attribute by which `peft` recognises a model with 4-bit layers."""
    if quantised:
        model.is_loaded_in_4bit = True  # type: ignore[assignment]
    yield
    if quantised:
        del model.is_loaded_in_4bit


def _start(loaded: Loaded, targets: Sequence[str], setting: AdapterContext) -> None:
    """Initialise the adapters, which `peft` has created on the meta device.

    As in `peft`: A is initialised as a linear layer's weight, B is zero, and DoRA's magnitudes are the norms of the
    weights. The norms are computed here, since the weights may still be in their files.
    """
    layers = [loaded.model.get_submodule(name) for name in targets]
    draw = torch.Generator().manual_seed(setting.seed)
    for layer in layers:
        for name, parameter in layer.named_parameters():
            if ".lora_" in f".{name}":
                torch.utils.swap_tensors(parameter, nn.Parameter(torch.zeros(parameter.shape)))
                if name.startswith("lora_A"):
                    nn.init.kaiming_uniform_(parameter, a=5**0.5, generator=draw)
    for layer in layers:  # after the small tensors: freed large ones between them would fragment the memory
        if layer.lora_magnitude_vector:
            base: Any = layer.base_layer
            weight = readable(base.weight, loaded.stored)
            if base.weight not in loaded.stored:
                weight = MemoryTensor(dequantize_module_weight(base))
            lengths = output_lengths(weight, transposed=is_transposed(base))
            layer.lora_magnitude_vector["default"].weight.data.copy_(lengths)
