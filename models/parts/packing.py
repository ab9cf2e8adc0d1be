"""Whether a model separates samples that are packed into one row."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import torch
from transformers import masking_utils

if TYPE_CHECKING:
    from transformers import PreTrainedModel


ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}
"""Layer types that obey an attention mask; others (convolutions, linear attention) pass information along a row."""


class _Asked(Exception):
    pass


def keeps_samples_apart(model: PreTrainedModel) -> bool:
    """Whether attention finds the samples by their position ids, and no other layer passes information along a row.

    A model may accept position ids and still let each token attend to all before it, as OPT and Falcon do. So a few
    tokens are passed in, to see whether `transformers` looks for packed samples; weights may be on the meta device.
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
    except (TypeError, ValueError, RuntimeError):  # it takes no position ids, or does not run on the meta device
        return False
    finally:
        masking_utils.find_packed_sequence_indices = looks
    return False
