"""Remove prefixes of wrappers from the names of a state dict, such as Lightning's `model.`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DEEPEST_WRAPPER = 3
"""Maximum number of nested wrappers."""


def without_wrapper(weights: Mapping[str, Tensor], like: PreTrainedModel) -> dict[str, Tensor]:
    """The weights under the model's own names.

    They are unchanged if any of them has the name of one of the model's weights, with or without the base's prefix.
    Otherwise the prefix is removed with which most of them match.
    """
    base = f"{like.base_model_prefix}."
    own = {name.removeprefix(base) for name in like.state_dict()}
    own |= {f"{base}{name}" for name in own}
    if any(name in own for name in weights):
        return dict(weights)
    matching = Counter(
        prefix for name in weights for prefix in _prefixes(name) if name.removeprefix(prefix) in own
    ).most_common(1)
    if not matching:
        return dict(weights)
    return {name.removeprefix(matching[0][0]): tensor for name, tensor in weights.items()}


def _prefixes(name: str) -> list[str]:
    words = name.split(".")
    return [".".join(words[:length]) + "." for length in range(1, min(DEEPEST_WRAPPER, len(words) - 1) + 1)]
