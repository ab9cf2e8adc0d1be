"""How the model moves to the domain: a file a method. Nothing here knows of ranks."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from launcher.adapt.adapters.adapters import AdapterContext, Adapters
from launcher.adapt.methods.method import Method, ModelDims
from launcher.errors import ModelError, RequestError
from launcher.job.pretrained import Pretrained
from launcher.job.schema import Job
from launcher.job.sections.adapters import AnyAdapters
from launcher.models.parts.own_code import check_names, own_object
from launcher.models.tasks.base import Task, TaskModule
from launcher.models.weights import loading
from launcher.models.weights.loading import Loaded

if TYPE_CHECKING:
    from transformers import PreTrainedModel

METHODS = {
    "dapt": "dapt:ContinuedPretraining",
    "udalm": "udalm:MixedLanguage",
    "dann": "dann:DomainAdversarial",
    "cdan": "cdan:ConditionalAdversarial",
    "coral": "coral:CovarianceAlignment",
    "mmd": "mmd:DiscrepancyAlignment",
    "mcc": "mcc:ClassConfusion",
    "self-training": "self_training:SelfTrained",
    "shot": "shot:SourceFree",
    "tent": "tent:SureNormalisation",
    "group-dro": "group_dro:GroupRobust",
}
"""Name to module and class in `methods`; a new one is a file, a line here, a section in `job/sections/methods.py`."""

ADAPTERS = {"lora": "lora:add_lora", "rslora": "lora:add_lora", "dora": "lora:add_lora"}
"""Kind to module and function in `adapters`; a new one is a file, a line here, and its word or section in
`job/sections/adapters.py`."""

RENAMED = {
    "over_all": "batch_loss",
    "reweighted": "sample_factors",
    "learns": "is_trainable",
    "parts": "extra_modules",
}
"""Of `Method`, since 0.1.0."""


def add_adapters(spec: AnyAdapters, loaded: Loaded, setting: AdapterContext) -> Adapters:
    """Put adapters into a loaded model, before any engine has it; only the file of their kind is imported."""
    module, _, name = ADAPTERS[spec.kind].partition(":")
    add = getattr(importlib.import_module(f"launcher.adapt.adapters.{module}"), name)
    added: Adapters = add(spec, loaded, setting)
    return added


def make_method(job: Job, task: Task, sets: Mapping[str, int], target: int) -> Method | None:
    """The job's method, only whose file is imported; None where a step minimises the task's loss and nothing else.

    Raises RequestError for an own class that is no method, ModelError for a tokenizer that it cannot be used with.
    """
    if job.adapt.is_plain:
        return None
    own = job.adapt.own_class
    if own is not None:
        found = own_object(own)
        if not (isinstance(found, type) and issubclass(found, Method)):
            raise RequestError(f"{own} is no method; derive it from launcher.methods.Method (docs/extending/method.md)")
        check_names(found, RENAMED)
    else:
        module, _, name = METHODS[job.adapt.method].partition(":")
        found = getattr(importlib.import_module(f"launcher.adapt.methods.{module}"), name)
    made: Method = found(job.adapt, task, sets, target)
    return made


def freeze_for_method(method: Method | None, loaded: Loaded) -> None:
    """Freeze what the method does not let learn. Raises ModelError for a model that it cannot be used with."""
    if method is None:
        return
    from launcher.adapt.methods.module import freeze_for

    model = loaded.model
    if method.observes and any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        raise ModelError(
            f"{type(model).__name__} normalises over micro-batches, so no loss over the global batch is exact with it; "
            "use adapt.method: finetune, or a model with LayerNorm"
        )
    freeze_for(method, model, model.config.num_labels)


def joined_module(
    inner: TaskModule, method: Method | None, loaded: Loaded, job: Job, pretrained: Pretrained
) -> TaskModule:
    """The task's module with what the method adds; where new parts start depends on the seed alone."""
    if method is None:
        return inner
    from launcher.adapt.methods.module import AdaptingModule, head_of

    model, outputs = loaded.model, loaded.model.config.num_labels
    torch.manual_seed(job.train.seed)
    around = ModelDims(
        head_of(model, outputs).in_features,
        outputs,
        lambda auto_class: _language_head(auto_class, model, job, pretrained),
    )
    return AdaptingModule(inner, method, method.extra_modules(around), outputs)


def _language_head(auto_class: str, body: PreTrainedModel, job: Job, pretrained: Pretrained) -> nn.Module:
    from launcher.adapt.methods.language import LanguageHead

    config = loading.load_config(pretrained, job.model)
    if config is None or pretrained.builder is not None:
        raise ModelError(f"{pretrained.builder} builds a model for the task alone; name a folder or a hub id")
    found = loading.load_model(pretrained, job.model, auto_class, (), config)
    if job.adapt.adapters is not None:
        _freeze_pretrained(found)
    return LanguageHead(found.model, body)


def _freeze_pretrained(loaded: Loaded) -> None:
    """Only what the pretrained model lacks learns, as it does beside adapters in the rest of the model."""
    named = dict(loaded.model.named_parameters(remove_duplicate=False))
    new = {named[name] for name in loaded.new if name in named}
    for parameter in named.values():
        parameter.requires_grad_(parameter in new)
