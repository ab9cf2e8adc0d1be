"""Reset models whose outputs depend on earlier batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def forget_between_calls(model: nn.Module) -> None:
    """Make each call of the model compute as if it were the first.

    BigBird switches its sparse attention off at the first batch that is too short for it, and never on again. Rotary
    embeddings with dynamic scaling keep the scale of the longest batch so far.
    """
    for module in model.modules():
        if hasattr(module, "set_attention_type") and hasattr(module, "_pad_to_block_size"):
            _keep_attention_type(module)
        elif hasattr(module, "max_seq_len_cached") and hasattr(module, "rope_type"):
            _keep_scale(module)


def _keep_attention_type(body: Any) -> None:
    """Switch sparse attention back on before each call. New layers share the old layers' weights, so no memory."""
    intended, switch = body.attention_type, body.set_attention_type

    def set_attention_type(value: str) -> None:
        with torch.device("meta"):
            switch(value)

    body.set_attention_type = set_attention_type
    body.register_forward_pre_hook(lambda *_: set_attention_type(intended))


def _keep_scale(rope: Any) -> None:
    """Restore the frequencies of the original length before each call."""
    kinds = rope.rope_type.items() if isinstance(rope.rope_type, dict) else [(None, rope.rope_type)]
    prefixes = ["" if layer is None else f"{layer}_" for layer, kind in kinds if "dynamic" in kind]
    if not prefixes:
        return

    def reset(*_: Any) -> None:
        for prefix in prefixes:
            original, frequencies = getattr(rope, f"{prefix}original_inv_freq"), getattr(rope, f"{prefix}inv_freq")
            setattr(rope, f"{prefix}inv_freq", original.to(frequencies.device))
            setattr(rope, f"{prefix}max_seq_len_cached", rope.original_max_seq_len)

    rope.register_forward_pre_hook(reset)
