"""What learns first: the head of a linear probe, then one more layer from the top at a time.

Changing what learns under a living engine fails or loses parameters, so the engine is built anew whenever more learns,
from a checkpoint, under every engine alike (launcher/plan/stages.py).
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
    """Names of the parameters that learn at first, then of those that learn later on; each set holds the one before.

    loaded: a model whose `requires_grad` says what ever learns
    Raises ModelError where there is no head to begin with.
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
    """What a linear probe trains. Raises ModelError where that is nothing, or all that learns."""
    head = _head(loaded)
    found = everything & head
    if head and not found:
        raise ModelError("adapt.probe: model.frozen or the method keeps the head as it is; remove adapt.probe")
    if not found:
        name = type(loaded.model).__name__
        raise ModelError(f"adapt.probe: {name} has no head that learns by itself; remove adapt.probe")
    if found == everything:
        raise ModelError("adapt.probe: nothing is trained besides the head; remove it")
    return found


def _head(loaded: Loaded) -> frozenset[str]:
    """What stands outside the base model, and what the pretrained model lacks."""
    model: PreTrainedModel = loaded.model
    inside = set() if model.base_model is model else set(model.base_model.parameters())
    outside = {name for name, parameter in model.named_parameters() if inside and parameter not in inside}
    return frozenset(outside | set(loaded.new))
