"""Layer-wise learning rates: the depth of each parameter below the top, in repeated blocks, and its factor."""

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
    """The depth of each parameter: 0 at the top (the head, and modules after the last block), 1 in the last block, 2 in
    the one before, …; the number of blocks plus one before all of them (embeddings).

    The blocks of an encoder are below those of its decoder. A tied parameter counts where it first occurs.
    Raises ModelError if the model has no repeated blocks.
    """
    blocks = list(repeated_blocks(model.base_model))
    if not blocks:
        raise ModelError(
            f"{type(model).__name__} has no repeated layers, which adapt.layer_decay and adapt.unfreeze "
            "need; name groups: adapt.lr_factors"
        )
    number_of = {parameter: number for number, block in enumerate(blocks) for parameter in block.parameters()}
    passed, found = 0, {}
    for parameter in model.base_model.parameters():
        passed = max(passed, number_of.get(parameter, -1) + 1)
        between = len(blocks) - passed if passed else len(blocks) + 1
        found[parameter] = len(blocks) - number_of[parameter] if parameter in number_of else between
    return {name: found.get(parameter, 0) for name, parameter in model.named_parameters()}


def learning_rate_factors(spec: Adapting, model: PreTrainedModel) -> dict[str, float]:
    """The factor of the learning rate of each trained parameter.

    Discriminative rates as in ULMFiT (Howard & Ruder 2018, arXiv:1801.06146); one factor per layer as in ELECTRA (Clark
    et al. 2020, arXiv:2003.10555). Raises ModelError for a pattern that matches no parameter.
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
                f"adapt.lr_factors: no parameter named {pattern!r} is trained (model.frozen or the method); remove it"
            )
        shown = ", ".join(name for name, part in model.named_children() if any(True for _ in part.parameters()))
        raise ModelError(f"adapt.lr_factors: no parameter is named {pattern!r}; the model's parts are {shown}")
