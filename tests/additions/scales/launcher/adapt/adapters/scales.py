"""A number for each output of the linear layers (as for keys and values in (IA)³; arXiv:2205.05638)."""

from __future__ import annotations

import torch
from peft import IA3Config, inject_adapter_in_model
from torch import nn

from launcher.adapt.adapters.adapters import TASK_TYPES, AdapterContext, Adapters, modules_that_learn, target_modules
from launcher.job.sections.adapters import Scales
from launcher.models.weights.adapters import is_added
from launcher.models.weights.loading import Loaded


def add_scales(spec: Scales, loaded: Loaded, setting: AdapterContext) -> Adapters:
    """Freeze the model and multiply what its layers give, at first by one."""
    model, identity, came = (
        loaded.model,
        loaded.identity,
        sum(parameter.numel() for parameter in loaded.model.parameters()),
    )
    whole = modules_that_learn(loaded)
    config = IA3Config(
        base_model_name_or_path=setting.pretrained.location,
        revision=setting.revision,
        task_type=TASK_TYPES.get(setting.auto_class),
        target_modules=target_modules(model, spec.layers, whole),
        feedforward_modules=[],
    )
    inject_adapter_in_model(config, model)
    learning, added = 0, 0
    for name, parameter in model.named_parameters():
        if is_added(name):
            torch.utils.swap_tensors(parameter, nn.Parameter(torch.ones(parameter.shape)))
        parameter.requires_grad_(is_added(name) or name.startswith(tuple(f"{module}." for module in whole)))
        learning += parameter.numel() * parameter.requires_grad
        added += parameter.numel() * is_added(name)
    described = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    described |= {"modules_to_save": whole or None, "inference_mode": True}
    return Adapters(described, identity, learning, came + added)
