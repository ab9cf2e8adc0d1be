"""A text may hold the characters of a tokenizer's own marks: they are characters there, or the row is refused."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from launcher.data.rows import Row
from launcher.errors import DataError
from launcher.job.sections.training import Train
from launcher.models.tasks.masked_lm import MaskedLM
from launcher.models.tasks.text_classification import TextClassification
from launcher.models.tasks.token_classification import TokenClassification
from tests.architectures import word_tokenizer
from tests.tiny import WORDS


@pytest.fixture(scope="module")
def spelling() -> PreTrainedTokenizerFast:
    """A tokenizer that spells texts, and so can spell its marks."""
    special = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]
    vocabulary = {token: number for number, token in enumerate([*special, *pre_tokenizers.ByteLevel.alphabet()])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "bos_token", "eos_token", "mask_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def row(**values: Any) -> Row:
    return Row("f.csv", 8, values)


def read(tokenizer: Any, columns: dict[str, Any], place: int = 0) -> str:
    return "".join(tokenizer.convert_ids_to_tokens(columns["input_ids"][place])).replace("Ġ", " ")


@pytest.mark.parametrize("mark", ["</s>", "<s>", "<pad>", "<mask>"])
def test_a_mark_in_a_text_is_spelled(mark: str, spelling: Any) -> None:
    task = TextClassification(spelling, ("a",), Train(max_length=40))
    columns = task.prepare([row(text="ab"), row(text=f"a{mark} b"), row(text="cd")], labelled=False)
    assert spelling.encode(mark, add_special_tokens=False) == [spelling.convert_tokens_to_ids(mark)], "else a mark"
    assert [read(spelling, columns, place) for place in range(3)] == ["<s> ab</s>", f"<s> a{mark} b</s>", "<s> cd</s>"]
    assert columns["length"] == [len(ids) for ids in columns["input_ids"]] == [5, len(f" a{mark} b") + 2, 5]


def test_a_pair_with_a_mark_keeps_its_own_marks(spelling: Any) -> None:
    columns = TextClassification(spelling, ("a",), Train(max_length=40)).encode([row(text="a</s>", text_pair="<s>b")])
    assert columns["input_ids"][0].count(3) == 3
    assert columns["input_ids"][0].count(2) == 1


def test_other_texts_are_read_as_ever(spelling: Any) -> None:
    texts = ["ab <unk> cd", "a < s >", "x"]
    columns = TextClassification(spelling, ("a",), Train(max_length=8)).encode([row(text=text) for text in texts])
    assert columns["input_ids"] == spelling(texts, truncation=True, max_length=8)["input_ids"]


def test_a_word_that_is_a_mark_is_spelled_and_keeps_its_label(spelling: Any) -> None:
    task = TokenClassification(spelling, ("x", "y"), Train(max_length=40))
    columns = task.prepare([row(words=["a", "</s>", "b"], label=["x", "y", "x"])], labelled=True)
    assert read(spelling, columns) == "<s> a </s> b</s>"
    assert columns["begins"][0] == [-1, 0, -1, 1, -1, -1, -1, -1, 2, -1, -1]


def test_a_mask_in_a_text_of_a_language_model_asks_for_a_word(spelling: Any) -> None:
    columns = MaskedLM(spelling, (), Train(max_length=40)).prepare([row(text="a <mask>")], labelled=False)
    assert spelling.mask_token_id in columns["input_ids"][0]


@pytest.mark.parametrize(("style", "mark"), [("bert", "[SEP]"), ("bart", "</s>"), ("eos", "</s>"), ("bert", "[PAD]")])
def test_a_mark_that_can_be_read_in_no_other_way_is_refused_with_its_row(style: str, mark: str) -> None:
    task = TextClassification(word_tokenizer(style), ("a",), Train(max_length=40))
    rows = [row(text=WORDS[0]), row(text=f"{WORDS[0]} {mark} {WORDS[1]}")]
    with pytest.raises(DataError) as caught:
        task.prepare(rows, labelled=False)
    assert str(caught.value).startswith(f"f.csv, row 8: the text contains {mark}, ")
