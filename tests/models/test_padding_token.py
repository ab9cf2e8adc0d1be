"""A model and its tokenizer take one token for padding."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from launcher.models.parts.padding_token import agree_on_padding
from tests.architectures import SIZES, word_tokenizer

TOKENIZER = word_tokenizer("bert")


def model_of(kind: str, named: int | None) -> Any:
    config = AutoConfig.for_model(kind, vocab_size=len(TOKENIZER), pad_token_id=named, **SIZES[kind])
    return AutoModelForSequenceClassification.from_config(config)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_the_tokenizers_token_is_taken_and_that_is_told(kind: str) -> None:
    model = model_of(kind, 1)
    told = agree_on_padding(model, TOKENIZER)
    assert told == (
        "the model's config names token 1 ('[UNK]') for padding and the tokenizer token 0 ('[PAD]'); both now use 0"
    )
    assert model.config.pad_token_id == 0
    assert model.get_input_embeddings().padding_idx in (0, None)


@pytest.mark.parametrize("named", [0, None])
def test_nothing_is_told_or_changed_where_they_agree_or_the_config_names_none(named: int | None) -> None:
    model = model_of("llama", named)
    assert agree_on_padding(model, TOKENIZER) == ""
    assert model.config.pad_token_id == named


def test_a_number_that_is_no_token_is_told_as_such() -> None:
    model = model_of("llama", 0)
    model.config.pad_token_id = -1
    assert "token -1 (none of its tokens)" in agree_on_padding(model, TOKENIZER)


def test_a_model_that_counts_positions_from_its_padding_keeps_it() -> None:
    model = model_of("roberta", 1)
    assert agree_on_padding(model, TOKENIZER) == ""
    assert model.config.pad_token_id == 1


def test_a_processor_without_padding_changes_nothing() -> None:
    model = model_of("llama", 1)
    assert agree_on_padding(model, object()) == ""
    assert agree_on_padding(model, PreTrainedTokenizerFast(tokenizer_object=TOKENIZER.backend_tokenizer)) == ""
