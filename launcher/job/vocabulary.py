"""Whether a tokenizer and a model belong together: read from tokenizer.json and config.json, without loading either."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher.errors import ModelError
from launcher.job.pretrained import Pretrained, read_config

PADS = ("pad_token", "eos_token", "unk_token")
"""What pads, in this order."""


def check_vocabulary(pretrained: Pretrained) -> None:
    """Raises ModelError for a tokenizer with more tokens than the model has embeddings, or without one to pad with.

    Only as far as files say so; a rank that loads both sees the rest.
    """
    if _has_no_special_token(Path(pretrained.tokenizer)):
        raise no_padding_token(pretrained.tokenizer)
    largest = _largest_token(Path(pretrained.tokenizer))
    embeddings = embeddings_of(read_config(pretrained) or {})
    if largest is not None and embeddings is not None and largest[1] >= embeddings:
        raise too_many_tokens(pretrained.tokenizer, *largest, embeddings)


def too_many_tokens(tokenizer: str, token: str, number: int, embeddings: int) -> ModelError:
    """The error for a token that the model has no embedding for."""
    return ModelError(
        f"the tokenizer in {tokenizer} has token ids up to {number} ({token!r}), and the model has "
        f"{embeddings} embeddings, with ids up to {embeddings - 1}; name the tokenizer that belongs to "
        "the model (model.tokenizer), or resize the embeddings once: "
        "model.resize_token_embeddings(len(tokenizer)), then "
        "save both"
    )


def no_padding_token(tokenizer: str) -> ModelError:
    """The error for a tokenizer that has nothing to pad with."""
    return ModelError(
        f"the tokenizer in {tokenizer} has no special token to pad the shorter samples of a batch with; name "
        'one that no text contains, in tokenizer_config.json ("pad_token"), or add one to tokenizer and model: '
        "tokenizer.add_special_tokens({'pad_token': '[PAD]'}), model.resize_token_embeddings(len(tokenizer)), then "
        "save both"
    )


def embeddings_of(config: Mapping[str, Any]) -> int | None:
    """How many tokens a model with this config can embed; None where it does not say."""
    inner = config.get("text_config")
    found = config.get("vocab_size") or (inner.get("vocab_size") if isinstance(inner, Mapping) else None)
    return found if isinstance(found, int) else None


def _has_no_special_token(folder: Path) -> bool:
    """Whether the files name none that could pad; classes for one kind of model have theirs by themselves."""
    said: dict[str, Any] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        try:
            found = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        said |= found if isinstance(found, dict) else {}
    is_general = not _names_special_tokens(folder) and said.get("tokenizer_class") in (
        "TokenizersBackend",
        "PreTrainedTokenizerFast",
    )
    return is_general and not any(said.get(name) for name in PADS)


def _names_special_tokens(folder: Path) -> bool:
    """Whether tokenizer.json has some, one of which the model's config may name for padding."""
    added = (_tokenizer(folder) or {}).get("added_tokens")
    return isinstance(added, list) and any(isinstance(token, dict) and token.get("special") for token in added)


def _tokenizer(folder: Path) -> dict[str, Any] | None:
    try:
        said = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None  # loading it says what is wrong
    return said if isinstance(said, dict) else None


def _largest_token(folder: Path) -> tuple[str, int] | None:
    """The token of the largest number."""
    said = _tokenizer(folder) or {}
    try:
        vocabulary = said["model"]["vocab"]
        if isinstance(vocabulary, list):  # pairs of token and score
            vocabulary = {str(entry[0]): number for number, entry in enumerate(vocabulary)}
        tokens = [*vocabulary.items(), *((token["content"], token["id"]) for token in said.get("added_tokens") or ())]
        token, number = max(tokens, key=lambda one: one[1])
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return None
    return (str(token), number) if isinstance(number, int) else None
