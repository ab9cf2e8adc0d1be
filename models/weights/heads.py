"""Reorder the rows of a trained head to match the labels of the data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from launcher.data.labels import LabelMatch, head_names, output_names, unless_unnamed
from launcher.errors import ModelError
from launcher.models.weights.stored import LazyTensor, LazyTensors, MemoryTensor, readable

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

SPREAD = 0.02
"""Standard deviation of new rows of parameters that a model does not initialise."""


def all_outputs(config: PretrainedConfig | None) -> tuple[str, ...]:
    """The names in a config's `id2label`, in the order of the outputs."""
    return output_names(getattr(config, "id2label", None))


def named_outputs(config: PretrainedConfig | None) -> tuple[str, ...]:
    """The same; empty if they are the default names."""
    return unless_unnamed(all_outputs(config))


def head_labels(config: PretrainedConfig | None, auto_class: str | None = None) -> tuple[str, ...]:
    """Names of the rows of a trained head for an auto class; empty without one."""
    return head_names(getattr(config, "architectures", None), getattr(config, "id2label", None), auto_class)


def known_labels(config: PretrainedConfig | None, auto_class: str | None = None) -> tuple[str, ...]:
    """The same; also empty if the rows have the default names."""
    return unless_unnamed(head_labels(config, auto_class))


def label_parameters(
    model: PreTrainedModel, build: Callable[[PretrainedConfig], nn.Module], *, keeps_rows: bool
) -> tuple[str, ...]:
    """Names of the parameters with one row per label: those whose shape changes with one label more.

    build: builds a config's model on the meta device
    keeps_rows: whether rows are to be kept; raises ModelError if a label's parameters are not a row
    """
    config, labels = copy.deepcopy(model.config), model.config.num_labels
    config.id2label = {index: str(index) for index in range(labels + 1)}
    config.label2id = {str(index): index for index in range(labels + 1)}
    larger = dict(build(config).named_parameters())
    found = []
    for name, parameter in model.named_parameters():
        shape = larger[name].shape
        if shape == parameter.shape:
            continue
        if keeps_rows and (shape[0] != labels + 1 or shape[1:] != parameter.shape[1:]):
            raise ModelError(
                f"{name} does not have one row per label, so the head cannot be kept; set model.labels: new"
            )
        found.append(name)
    return tuple(found)


@dataclass(frozen=True)
class HeadRows:
    """Reorders the rows of parameters.

    names: the parameters with one row per label
    old: the stored rows, by parameter name
    drawn_from: state of the random generator for new rows, the same on every rank
    """

    match: LabelMatch
    names: Sequence[str]
    old: Mapping[str, LazyTensor]
    drawn_from: Tensor

    def place(self, model: PreTrainedModel, stored: LazyTensors) -> LazyTensors:
        """Set the parameters' rows, in memory. Returns the weights that are still in files."""
        stored = dict(stored)
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self.drawn_from)
            for owner in dict.fromkeys(name.rpartition(".")[0] for name in self.names):
                module = model.get_submodule(owner)
                fresh = _begun_again(model, module)
                for name in self.names:
                    if name.rpartition(".")[0] == owner:
                        self._place(module, name, getattr(fresh, name.rpartition(".")[2]), stored)
        return stored

    def _place(self, module: nn.Module, name: str, fresh: nn.Parameter, stored: LazyTensors) -> None:
        leaf = name.rpartition(".")[2]
        values, parameter = fresh.detach().float(), getattr(module, leaf)
        for number, row in enumerate(self.match.rows):
            if row is not None and name in self.old:
                values[number] = self.old[name].rows(row, row + 1)[0]
        stored.pop(parameter, None)
        module.register_parameter(leaf, nn.Parameter(values, parameter.requires_grad))


def old_rows(model: PreTrainedModel, names: Sequence[str], stored: LazyTensors) -> dict[str, LazyTensor]:
    """The rows of a loaded model, copied if they are in memory."""
    parameters = dict(model.named_parameters())
    found = {name: readable(parameters[name], stored) for name in names}
    return {
        name: MemoryTensor(values.whole().clone()) if isinstance(values, MemoryTensor) else values
        for name, values in found.items()
    }


def _begun_again(model: PreTrainedModel, module: nn.Module) -> nn.Module:
    """A copy of a module, initialised as the model initialises a new one."""
    fresh = copy.deepcopy(module).to_empty(device="cpu")
    with torch.no_grad():
        for parameter in fresh.parameters():
            nn.init.normal_(parameter, std=SPREAD)
        if isinstance(fresh, nn.Linear | nn.Conv2d):
            fresh.reset_parameters()
        model._init_weights(fresh)
    return fresh
