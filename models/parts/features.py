"""What a pretrained model makes of each sample: one vector, whatever the family."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from launcher.errors import ModelError
from launcher.models.parts.batch import Batch
from launcher.models.tasks.base import Example, Task
from launcher.models.tasks.text import TextTask

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def unchanged(task: Task, examples: Sequence[Example], ids: Sequence[int]) -> Batch:
    """A batch of some samples with nothing hidden and nothing changed at random; of texts without their targets."""
    if not isinstance(task, TextTask):
        return task.collate(examples, ids)
    return task.batch(examples, ids, torch.zeros(len(ids)), torch.ones(len(ids)))


def features_of(model: PreTrainedModel, inputs: Mapping[str, Tensor], samples: int) -> Tensor:
    """[samples, size] float32: the mean of the last hidden state over tokens that are no padding, or over an image.

    A model of which no hidden state is to be had gives its own output; one with a decoder gives its encoder's state.
    Raises ModelError where the model does not give one vector a sample.
    """
    body: Any = model.get_encoder() if getattr(model.config, "is_encoder_decoder", False) else model.base_model
    output = body(**_taken(body, inputs))
    found = getattr(output, "last_hidden_state", None)
    if found is None:
        found = next((value for value in _values(output) if isinstance(value, Tensor)), None)
    if found is None or found.dim() < 2 or len(found) != samples:
        shape = "nothing" if found is None else f"{tuple(found.shape)}"
        raise ModelError(f"{type(body).__name__} gives {shape} for {samples} samples, which is not one vector each")
    return pooled(found.float(), inputs.get("attention_mask"))


def pooled(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """[samples, size] of [samples, size], [samples, tokens, size] or [samples, channels, height, width].

    mask: [samples, tokens], zero where a token is padding; a mask of another shape says nothing of these places
    """
    if hidden.dim() == 2:
        return hidden
    if hidden.dim() == 3:
        if mask is None or mask.shape != hidden.shape[:2]:
            return hidden.mean(1)
        weights = mask.to(hidden.dtype).unsqueeze(-1)
        return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1.0)
    return hidden.flatten(2).mean(-1)


def _taken(body: torch.nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inputs that the body knows; those of the head are left out."""
    known = inspect.signature(body.forward).parameters
    takes_all = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in known.values())
    return {name: value for name, value in inputs.items() if takes_all or name in known}


def _values(output: Any) -> list[Any]:
    if isinstance(output, Mapping):
        return list(output.values())
    return list(output) if isinstance(output, tuple | list) else [output]
