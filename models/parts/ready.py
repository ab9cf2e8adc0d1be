"""Make a loaded model and its processor consistent, or refuse them, before the model is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from launcher.errors import ModelError
from launcher.job.pretrained import Pretrained
from launcher.models.parts.padding_token import agree_on_padding
from launcher.models.parts.stateless import forget_between_calls
from launcher.models.weights.loading import check_vocabulary, embeddings_in

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def make_ready(
    model: PreTrainedModel, processor: Any, pretrained: Pretrained, *, pairs: bool, say: Callable[[str], object]
) -> None:
    """Make a sample's outputs independent of other samples, as far as model and processor decide it.

    pairs: whether samples have a second text
    say: called with a note on each change
    Raises ModelError if the two do not belong together.
    """
    check_vocabulary(processor, embeddings_in(model), pretrained.tokenizer)
    if pairs:
        _check_pairs(model, processor)
    forget_between_calls(model)
    note = agree_on_padding(model, processor)
    if note:
        say(note)


def _check_pairs(model: PreTrainedModel, tokenizer: Any) -> None:
    """Raises ModelError if the tokenizer gives the second text of a pair a token type that the model lacks."""
    types = getattr(model.config, "type_vocab_size", None)
    if not types:
        return
    marked = tokenizer("a", "b").get("token_type_ids") or [0]
    if max(marked) >= types:
        raise ModelError(
            f"the tokenizer gives the second text of a pair token type {max(marked)}, and the model has "
            f"{types} token types; "
            "name the tokenizer that belongs to the model: model.tokenizer"
        )
