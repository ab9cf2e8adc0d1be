"""Feature extraction: one vector per sample from a pretrained model, for every task."""

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
    """A batch of samples without masking or augmentation; for texts without their targets."""
    if not isinstance(task, TextTask):
        return task.collate(examples, ids)
    return task.batch(examples, ids, torch.zeros(len(ids)), torch.ones(len(ids)))


def features_of(model: PreTrainedModel, inputs: Mapping[str, Tensor], samples: int) -> Tensor:
    """[samples, size] float32: the mean of the last hidden states over tokens that are not padding, or over an image.

    A model without hidden states gives its output; an encoder-decoder model gives its encoder's states.
    Raises ModelError if the model does not give one vector per sample.
    """
    body: Any = model.get_encoder() if getattr(model.config, "is_encoder_decoder", False) else model.base_model
    output = body(**_taken(body, inputs))
    found = getattr(output, "last_hidden_state", None)
    if found is None:
        found = next((value for value in _values(output) if isinstance(value, Tensor)), None)
    if found is None or found.dim() < 2 or len(found) != samples:
        shape = "nothing" if found is None else f"{tuple(found.shape)}"
        raise ModelError(f"{type(body).__name__} returns {shape} for {samples} samples, not one vector per sample")
    return pooled(found.float(), inputs.get("attention_mask"))


def pooled(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """[samples, size] from [samples, size], [samples, tokens, size] or [samples, channels, height, width].

    mask: [samples, tokens], zero for padding; a mask of another shape is ignored
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
    """The inputs that the body accepts, without those of the head."""
    known = inspect.signature(body.forward).parameters
    takes_all = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in known.values())
    return {name: value for name, value in inputs.items() if takes_all or name in known}


def _values(output: Any) -> list[Any]:
    if isinstance(output, Mapping):
        return list(output.values())
    return list(output) if isinstance(output, tuple | list) else [output]
