"""Whether a tokenizer and a model belong together: read from tokenizer.json and config.json, without loading either."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher.errors import ModelError
from launcher.job.pretrained import Pretrained, read_config


def check_vocabulary(pretrained: Pretrained) -> None:
    """Raises ModelError for a tokenizer with more tokens than the model has embeddings, as far as files say so."""
    largest = _largest_token(Path(pretrained.tokenizer))
    embeddings = embeddings_of(read_config(pretrained) or {})
    if largest is not None and embeddings is not None and largest[1] >= embeddings:
        raise too_many_tokens(pretrained.tokenizer, *largest, embeddings)


def too_many_tokens(tokenizer: str, token: str, number: int, embeddings: int) -> ModelError:
    """The error for a token that the model has no embedding for."""
    return ModelError(
        f"the tokenizer in {tokenizer} has tokens up to number {number} ({token!r}), and the model has embeddings for "
        f"{embeddings}, the last of which is {embeddings - 1}; name the tokenizer that belongs to the model "
        "(model.tokenizer), or give the model new embeddings once: model.resize_token_embeddings(len(tokenizer)), then "
        "save both"
    )


def embeddings_of(config: Mapping[str, Any]) -> int | None:
    """How many tokens a model with this config can embed; None where it does not say."""
    inner = config.get("text_config")
    found = config.get("vocab_size") or (inner.get("vocab_size") if isinstance(inner, Mapping) else None)
    return found if isinstance(found, int) else None


def _largest_token(folder: Path) -> tuple[str, int] | None:
    """The token of the largest number."""
    try:
        said = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        vocabulary = said["model"]["vocab"]
        if isinstance(vocabulary, list):  # pairs of token and score
            vocabulary = {str(entry[0]): number for number, entry in enumerate(vocabulary)}
        tokens = [*vocabulary.items(), *((token["content"], token["id"]) for token in said.get("added_tokens") or ())]
        token, number = max(tokens, key=lambda one: one[1])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, AttributeError):
        return None  # loading it says what is wrong
    return (str(token), number) if isinstance(number, int) else None
