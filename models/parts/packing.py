"""Whether a model keeps samples apart that lie one behind the other in a row."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import torch
from transformers import masking_utils

if TYPE_CHECKING:
    from transformers import PreTrainedModel


ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}
"""Kinds of layers that see what a mask lets them see; others (convolutions, linear attention) carry it along a row."""


class _Asked(Exception):
    pass


def keeps_samples_apart(model: PreTrainedModel) -> bool:
    """Whether attention sees from the positions where a sample begins, and nothing else is carried along a row.

    A model takes positions and may still let each token see all before it, as OPT and Falcon do. So a few tokens go
    in, up to where `transformers` would look for samples in their positions; weights may be on the meta device.
    """
    if getattr(model, "_is_stateful", False) or not getattr(model, "_supports_sdpa", False):
        return False
    if not ATTENTION.issuperset(getattr(model.config, "layer_types", None) or ()):
        return False

    def asked(position_ids: torch.Tensor) -> NoReturn:
        raise _Asked

    device = model.get_input_embeddings().weight.device
    looks, masking_utils.find_packed_sequence_indices = masking_utils.find_packed_sequence_indices, asked
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            places = torch.arange(2, device=device).repeat(2)[None]
            model(input_ids=torch.zeros_like(places), position_ids=places, use_cache=False)
    except _Asked:
        return True
    except (TypeError, ValueError, RuntimeError):  # it takes no positions, or, on the meta device, cannot go on
        return False
    finally:
        masking_utils.find_packed_sequence_indices = looks
    return False
