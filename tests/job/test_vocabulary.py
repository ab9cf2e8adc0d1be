"""A tokenizer and a model that do not belong together are told from their files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import ModelError
from launcher.job.pretrained import Pretrained
from launcher.job.vocabulary import check_vocabulary


def place(folder: Path, tokenizer: Any, config: Any) -> Pretrained:
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "config.json").write_text(json.dumps(config))
    return Pretrained("folder", str(folder), str(folder), str(folder))


WORDS = {"model": {"vocab": {"a": 0, "b": 1, "c": 2}}}
PIECES = {"model": {"vocab": [["a", -1.0], ["b", -2.0], ["c", -3.0]]}}
ADDED = WORDS | {"added_tokens": [{"id": 3, "content": "extra"}]}


def test_a_tokenizer_without_any_special_token_is_refused(tmp_path: Path) -> None:
    pretrained = place(tmp_path, WORDS, {"vocab_size": 3})
    settings = tmp_path / "tokenizer_config.json"
    settings.write_text(json.dumps({"tokenizer_class": "TokenizersBackend", "unk_token": None}))
    with pytest.raises(ModelError, match="has no special token to pad the shorter samples of a batch with"):
        check_vocabulary(pretrained)
    place(tmp_path, ADDED | {"added_tokens": [{"id": 2, "content": "c", "special": True}]}, {"vocab_size": 3})
    check_vocabulary(pretrained)
    place(tmp_path, WORDS, {"vocab_size": 3})
    settings.write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))  # which has one by itself
    check_vocabulary(pretrained)
    settings.write_text(json.dumps({"tokenizer_class": "TokenizersBackend"}))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "</s>"}}))
    check_vocabulary(pretrained)


@pytest.mark.parametrize(
    ("tokenizer", "config", "found"),
    [
        (WORDS, {"vocab_size": 2}, "ids up to 2 ('c'), and the model has 2 embeddings"),
        (PIECES, {"vocab_size": 2}, "ids up to 2 ('c')"),
        (ADDED, {"vocab_size": 3}, "ids up to 3 ('extra'), and the model has 3 embeddings, with ids up to 2"),
        (ADDED, {"text_config": {"vocab_size": 3}}, "resize_token_embeddings"),
        (WORDS, {"vocab_size": 3}, None),
        (ADDED, {"vocab_size": 64}, None),
        (ADDED, {}, None),
        ({"model": {}}, {"vocab_size": 3}, None),
        ({"model": {"vocab": {"a": "b"}}}, {"vocab_size": 3}, None),
        ([1], {"vocab_size": 3}, None),
    ],
)
def test_more_tokens_than_embeddings_are_refused(
    tokenizer: Any, config: Any, found: str | None, tmp_path: Path
) -> None:
    pretrained = place(tmp_path, tokenizer, config)
    if found is None:
        check_vocabulary(pretrained)
        return
    with pytest.raises(ModelError) as raised:
        check_vocabulary(pretrained)
    assert found in str(raised.value)
