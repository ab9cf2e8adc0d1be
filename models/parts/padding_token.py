"""One padding token for a model and its tokenizer: a decoder's head uses the last token that is not padding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


def give_padding_token(tokenizer: Any, config: PretrainedConfig | None) -> None:
    """Set a missing padding token of a tokenizer to the one in the config, else to its end or unknown token.

    The config's token is used only if it is a special token of the tokenizer: else a word would be taken for padding.
    """
    if tokenizer.pad_token_id is not None:
        return
    number = None if config is None else getattr(config.get_text_config(), "pad_token_id", None)
    known = {
        number: token for token, number in zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
    }
    known |= {number: str(token) for number, token in tokenizer.added_tokens_decoder.items()}
    tokenizer.pad_token = known.get(number) or tokenizer.eos_token or tokenizer.unk_token


def agree_on_padding(model: PreTrainedModel, tokenizer: Any) -> str:
    """Set the model's padding token to the tokenizer's. Returns a note if they differed, else an empty text.

    A model that counts positions from its padding token keeps it, since another would shift its positions. Its
    attention mask hides the padding.
    """
    number = getattr(tokenizer, "pad_token_id", None)
    config = model.config.get_text_config()
    named = getattr(config, "pad_token_id", None)
    if number is None or named is None or named == number or _counts_positions_from_padding(model):
        return ""
    config.pad_token_id = number
    embeddings = model.get_input_embeddings()
    if getattr(embeddings, "padding_idx", None) is not None:
        embeddings.padding_idx = number
    return (
        f"the model's config names token {named} ({_shown(tokenizer, named)}) for padding and the tokenizer token "
        f"{number} ({_shown(tokenizer, number)}); both now use {number}"
    )


def _counts_positions_from_padding(model: PreTrainedModel) -> bool:
    """Whether position ids start from the padding token's id, as in RoBERTa."""
    return any(
        "position" in name and getattr(module, "padding_idx", None) is not None
        for name, module in model.named_modules()
    )


def _shown(tokenizer: Any, number: int) -> str:
    token = tokenizer.convert_ids_to_tokens(number) if 0 <= number < len(tokenizer) else None
    return "none of its tokens" if token is None else repr(token)
