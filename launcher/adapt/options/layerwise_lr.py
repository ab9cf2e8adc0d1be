"""How far below the top each parameter is, counted in repeated blocks, and what that makes of its learning rate."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatch
from typing import TYPE_CHECKING

from launcher.errors import ModelError
from launcher.job.sections.adapting import Adapting
from launcher.models.parts.blocks import repeated_blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def distances(model: PreTrainedModel) -> dict[str, int]:
    """For each parameter 0 at the top (the head, and what follows the last block), 1 in the last block, 2 in the one
    before, …; one more than the blocks where it comes before them all (embeddings).

    The blocks of an encoder lie below those of its decoder. A parameter that is tied is where it first occurs.
    Raises ModelError where nothing is repeated.
    """
    blocks = list(repeated_blocks(model.base_model))
    if not blocks:
        raise ModelError(
            f"{type(model).__name__} has no repeated layers, so adapt.layer_decay and adapt.unfreeze have nothing to "
            "go by; name groups: adapt.lr_factors"
        )
    number_of = {parameter: number for number, block in enumerate(blocks) for parameter in block.parameters()}
    passed, found = 0, {}
    for parameter in model.base_model.parameters():
        passed = max(passed, number_of.get(parameter, -1) + 1)
        between = len(blocks) - passed if passed else len(blocks) + 1
        found[parameter] = len(blocks) - number_of[parameter] if parameter in number_of else between
    return {name: found.get(parameter, 0) for name, parameter in model.named_parameters()}


def learning_rate_factors(spec: Adapting, model: PreTrainedModel) -> dict[str, float]:
    """What each parameter's learning rate is multiplied by, for those that learn.

    Discriminative rates as in ULMFiT (Howard & Ruder 2018, arXiv:1801.06146); one factor a layer as in ELECTRA (Clark
    et al. 2020, arXiv:2003.10555). Raises ModelError where a pattern names no parameter.
    """
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    depth = distances(model) if spec.layer_decay < 1 else {}
    _check_patterns(spec.lr_factors, names, model)
    return {
        name: spec.lr_factor_of_all * spec.layer_decay ** depth.get(name, 0) * _named_factor(spec, name)
        for name in names
    }


def _named_factor(spec: Adapting, name: str) -> float:
    return next((factor for pattern, factor in spec.lr_factors.items() if fnmatch(name, pattern)), 1.0)


def _check_patterns(patterns: Collection[str], names: Collection[str], model: PreTrainedModel) -> None:
    for pattern in patterns:
        if any(fnmatch(name, pattern) for name in names):
            continue
        if any(fnmatch(name, pattern) for name, _ in model.named_parameters()):
            raise ModelError(
                f"adapt.lr_factors: nothing that is named {pattern!r} learns, by model.frozen or the method; remove it"
            )
        shown = ", ".join(name for name, part in model.named_children() if any(True for _ in part.parameters()))
        raise ModelError(f"adapt.lr_factors: no parameter is named {pattern!r}; the model's parts are {shown}")
