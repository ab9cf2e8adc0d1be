"""The task's module with a method's modules, in one forward for all samples of a micro-batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from launcher.adapt.methods.language import LanguageHead
from launcher.adapt.methods.method import ForwardOutputs, Method, ModelDims, ObservedLosses, StepBatch
from launcher.errors import ModelError
from launcher.job.pretrained import Pretrained
from launcher.job.schema import Job
from launcher.models.parts.batch import Batch, Losses
from launcher.models.tasks.base import TaskModule
from launcher.models.weights import loading
from launcher.models.weights.loading import Loaded

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PARTS = "parts"
"""Attribute of the method's modules."""


class AdaptingModule(TaskModule):
    """One call of the model for labelled and target samples together; discriminators and heads are submodules.

    So every engine runs one forward and one backward per micro-batch, whatever the method. `model` is registered first,
    so that its names are the same as in the task's own module.
    """

    def __init__(self, inner: TaskModule, method: Method, parts: nn.Module | None, outputs: int) -> None:
        super().__init__()
        self.model = inner.model
        self.inner = inner
        self.parts = parts
        self.method = method
        self._tapped: dict[str, Tensor] = {}
        head_of(self.model, outputs).register_forward_pre_hook(self._tap_head)
        self.model.base_model.register_forward_hook(self._tap_body)
        self.model.register_forward_hook(self._tap_model)  # the head's outputs, after the engine's own hooks

    def forward(self, batch: Batch) -> Losses:
        """The task's losses for a plain batch; the method's losses, or its observations, for a `StepBatch`."""
        losses: Losses = self.inner(batch)
        if not isinstance(batch, StepBatch):
            self._tapped.clear()
            return losses
        seen = self._seen(losses, batch)
        if batch.wanted:
            observed = {name: getattr(seen, name) for name in batch.wanted}
            return ObservedLosses(torch.zeros_like(losses.weighted), losses.outputs, observed)
        weighted = torch.zeros_like(losses.weighted)
        for name, loss in self.method.terms(seen, self.parts, batch).items():
            weighted = weighted + loss * batch.scales[name]
        for name, gradient in batch.gradients.items():
            value = getattr(seen, name)  # adds zero to the loss, and this gradient to the model's
            weighted = weighted + ((value - value.detach()) * gradient).flatten(1).sum(1)
        return Losses(weighted, losses.outputs)

    def _seen(self, losses: Losses, batch: Batch) -> ForwardOutputs:
        rows = len(losses.weighted)
        features, logits, hidden = (self._tapped.pop(name) for name in ("features", "logits", "hidden"))
        if features.ndim == 3:  # a decoder's head is applied to each token; the model uses the last
            last = batch.inputs["attention_mask"].cumsum(1).argmax(1)
            features = features[torch.arange(rows, device=last.device), last]
        return ForwardOutputs(losses.weighted, logits.float(), features.flatten(1).float(), hidden)

    def _tap_head(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._tapped["features"] = inputs[0]

    def _tap_model(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._tapped["logits"] = output.logits

    def _tap_body(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._tapped["hidden"] = output[0]


def head_of(model: Any, outputs: int) -> nn.Linear:
    """The last linear layer, whose input is a sample's features. Raises ModelError if there is none."""
    body = {id(module) for module in model.base_model.modules()} if model.base_model is not model else set()
    found = [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear) and id(module) not in body and module.out_features == outputs
    ]
    if not found:
        raise ModelError(
            f"{type(model).__name__} has no linear layer with {outputs} outputs after its body, so its "
            "features cannot be found; use adapt.method: finetune"
        )
    return found[-1]


def freeze_for(method: Method, model: Any, outputs: int) -> None:
    """Freeze the parameters that the method does not train. Raises ModelError if none is left."""
    head = head_of(model, outputs)
    learning = 0
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not method.is_trainable(f"{prefix}.{name}", module, module is head):
                parameter.requires_grad_(False)
            learning += parameter.requires_grad
    if not learning:
        raise ModelError(f"{type(model).__name__} has no parameters that {method.spec.method} trains")


def freeze_for_method(method: Method | None, loaded: Loaded) -> None:
    """Freeze the parameters that the method does not train. Raises ModelError for an unsupported model."""
    if method is None:
        return
    model = loaded.model
    if method.observes and any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        raise ModelError(
            f"{type(model).__name__} normalises over micro-batches, so the loss over the global batch is not "
            "exact with it; use adapt.method: finetune, or a model with LayerNorm"
        )
    freeze_for(method, model, model.config.num_labels)


def joined_module(
    inner: TaskModule, method: Method | None, loaded: Loaded, job: Job, pretrained: Pretrained
) -> TaskModule:
    """The task's module with the method's modules, whose initial values depend on the seed alone."""
    if method is None:
        return inner
    model, outputs = loaded.model, loaded.model.config.num_labels
    torch.manual_seed(job.train.seed)
    around = ModelDims(
        head_of(model, outputs).in_features,
        outputs,
        lambda auto_class: _language_head(auto_class, model, job, pretrained),
    )
    return AdaptingModule(inner, method, method.extra_modules(around), outputs)


def _language_head(auto_class: str, body: PreTrainedModel, job: Job, pretrained: Pretrained) -> nn.Module:
    config = loading.load_config(pretrained, job.model)
    if config is None or pretrained.builder is not None:
        raise ModelError(
            f"{pretrained.builder} builds a model for the task only, without a language model head; "
            "name a folder or a hub id"
        )
    found = loading.load_model(pretrained, job.model, auto_class, (), config)
    if job.adapt.adapters is not None:
        _freeze_pretrained(found)
    return LanguageHead(found.model, body)


def _freeze_pretrained(loaded: Loaded) -> None:
    """Freeze all parameters but those that the pretrained model lacks, as is done in a model with adapters."""
    named = dict(loaded.model.named_parameters(remove_duplicate=False))
    new = {named[name] for name in loaded.new if name in named}
    for parameter in named.values():
        parameter.requires_grad_(parameter in new)
