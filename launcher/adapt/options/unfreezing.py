"""Linear probing and gradual unfreezing: first the head is trained, then one more layer from the top at a time.

Unfreezing parameters in a prepared engine fails or loses parameters. So every engine is set up again from a checkpoint
whenever parameters are unfrozen (launcher/plan/stages.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.adapt.options.layerwise_lr import distances
from launcher.errors import ModelError
from launcher.job.sections.adapting import Adapting
from launcher.models.weights.loading import Loaded

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def learning_sets(spec: Adapting, loaded: Loaded) -> list[frozenset[str]]:
    """Names of the parameters trained at first, then after each unfreezing; each set contains the one before.

    loaded: a model whose `requires_grad` is set for all parameters that are ever trained
    Raises ModelError if there is no head to begin with.
    """
    model = loaded.model
    everything = frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    head = _learning_head(loaded, everything) if spec.probing is not None else frozenset[str]()
    sets = [head] if head else []
    if spec.unfreeze is not None:
        depth = distances(model)
        for level in sorted({depth[name] for name in everything}):
            sets.append(head | {name for name in everything if depth[name] <= level})
    return list(dict.fromkeys([*sets, everything]))


def _learning_head(loaded: Loaded, everything: frozenset[str]) -> frozenset[str]:
    """The parameters of a linear probe. Raises ModelError if these are none, or all trained parameters."""
    head = _head(loaded)
    found = everything & head
    if head and not found:
        raise ModelError("adapt.probe: model.frozen or the method freezes the head; remove adapt.probe")
    if not found:
        name = type(loaded.model).__name__
        raise ModelError(f"adapt.probe: {name} has no head that can be trained alone; remove adapt.probe")
    if found == everything:
        raise ModelError("adapt.probe: only the head is trained anyway; remove it")
    return found


def _head(loaded: Loaded) -> frozenset[str]:
    """Parameters outside the base model, and those that the pretrained model lacks."""
    model: PreTrainedModel = loaded.model
    inside = set() if model.base_model is model else set(model.base_model.parameters())
    outside = {name for name, parameter in model.named_parameters() if inside and parameter not in inside}
    return frozenset(outside | set(loaded.new))
