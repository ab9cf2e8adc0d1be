"""The adapters of a model: which weights are trained, and which were added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from launcher.errors import ModelError
from launcher.job.pretrained import Pretrained
from launcher.job.sections.adapters import IN_A_REPEATED_BLOCK, is_meant
from launcher.models.weights.adapters import adapter_name, is_transposed
from launcher.models.weights.loading import Loaded

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TASK_TYPES = {
    "AutoModelForSequenceClassification": "SEQ_CLS",
    "AutoModelForTokenClassification": "TOKEN_CLS",
    "AutoModelForCausalLM": "CAUSAL_LM",
}
"""`peft`'s task types for the model classes that it supports."""


@dataclass(frozen=True)
class AdapterContext:
    """What adding adapters must know about the run in addition to its own settings.

    pretrained, revision: source of the model
    auto_class: name of the `transformers` class that loads the task's models
    device: this process's device; precision: its compute precision
    """

    pretrained: Pretrained
    revision: str | None
    auto_class: str
    seed: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: str = "fp32"


@dataclass(frozen=True)
class Adapters:
    """Description of the adapters.

    config: `peft`'s configuration of the added weights; None if nothing was added: the result is a whole model
    base: identity of the pretrained weights, which must be the same when the run resumes
    learning, parameters: number of trained parameters, and of all parameters
    """

    config: dict[str, Any] | None
    base: str
    learning: int
    parameters: int

    def __str__(self) -> str:
        share = 100 * self.learning / self.parameters
        return f"adapters: {self.learning:,} of {self.parameters:,} parameters are trained ({share:.2g} %)"


def modules_that_learn(loaded: Loaded) -> list[str]:
    """Names of the modules that are trained whole: a classifier's head, and modules initialised at random.

    The head of a language model is pretrained, so it is not one of them.
    """
    model: PreTrainedModel = loaded.model
    outside = {name for name, child in model.named_children() if child is not model.base_model}
    is_language_model = model.get_output_embeddings() is not None
    found = set()
    for name, _ in model.named_parameters():
        top = name.partition(".")[0]
        if name in loaded.new or (top in outside and not is_language_model):
            found.add(top if top in outside else name.rpartition(".")[0])
    if "" in found:
        raise ModelError(f"{type(model).__name__} has new weights that belong to no module; remove adapt.adapters")
    return sorted(found)


def target_modules(model: nn.Module, targets: str | Sequence[str], whole: Sequence[str]) -> list[str]:
    """Names of the linear layers that get adapters. Raises ModelError for a pattern that matches none."""
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) or is_transposed(module)
        if not f"{name}.".startswith(tuple(f"{head}." for head in whole))
    ]
    if targets == "auto":
        found = [name for name in linear if IN_A_REPEATED_BLOCK.search(name)]
        if not found:
            raise ModelError(
                f"{type(model).__name__} has no linear layer in repeated blocks; name the layers: "
                "adapt.adapters.targets"
            )
        return found
    for pattern in targets:
        if not any(is_meant(name, pattern) for name in linear):
            last = sorted({name.rpartition(".")[2] for name in linear})
            raise ModelError(
                f"adapt.adapters.targets: no linear layer is named {pattern!r}; their last names are {', '.join(last)}"
            )
    return [name for name in linear if any(is_meant(name, pattern) for pattern in targets)]


def kept_in_base(model: nn.Module, adapters: Adapters) -> set[str]:
    """Names of the frozen parameters, which are not part of the result."""
    if adapters.config is None:
        return set()
    whole = tuple(adapters.config["modules_to_save"] or ())
    return {
        name
        for name, parameter in model.named_parameters()
        if not parameter.requires_grad and adapter_name(name, whole) is None
    }
