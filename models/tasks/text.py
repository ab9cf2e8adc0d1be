"""What text tasks share: token ids from rows, and padding."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from launcher.data.rows import Row
from launcher.data.values import text_of
from launcher.errors import DataError
from launcher.models.parts.batch import Batch
from launcher.models.tasks.base import Example, Task


class TextTask(Task):
    """A family whose samples are one text, or two read together."""

    inputs: ClassVar[tuple[str, ...]] = ("text", "text_pair")
    targets: ClassVar[tuple[str, ...]] = ("label",)
    reads_marks: ClassVar[bool] = False
    """Whether special tokens keep their meaning within a text."""

    def encode(self, rows: Sequence[Row]) -> dict[str, list[Any]]:
        """Columns `input_ids`, `length`, and `token_type_ids` if the model distinguishes two texts by them.

        Raises DataError for a text without any known token, or with a special token that cannot be read as text.
        """
        texts = [text_of(row) for row in rows]
        pairs = [text_of(row, "text_pair") for row in rows] if rows and "text_pair" in rows[0].values else None
        options: dict[str, Any] = {
            "truncation": True,
            "max_length": self.train.max_length,
            "return_attention_mask": False,
        }
        found = self.processor(texts, pairs, **options)
        marks = () if self.reads_marks else marks_of(self.processor)
        for number, row in enumerate(rows):
            pair = None if pairs is None else pairs[number]
            shown = texts[number] if pair is None else f"{texts[number]} {pair}"
            if any(mark in shown for mark in marks):
                again = plainly(self.processor, row, marks, texts[number], pair, **options)
                for name in found:
                    found[name][number] = again[name]
        for row, tokens in zip(rows, found["input_ids"], strict=True):
            if not tokens:
                raise no_token(row)
        columns = {"input_ids": found["input_ids"], "length": [len(tokens) for tokens in found["input_ids"]]}
        if pairs is not None and "token_type_ids" in found:
            columns["token_type_ids"] = found["token_type_ids"]
        return columns

    def padded(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """The model's inputs, right-padded, with the attention mask."""
        inputs = {
            "input_ids": pad([example["input_ids"] for example in examples], self.processor.pad_token_id),
            "attention_mask": pad([np.ones(example["length"], dtype=np.int64) for example in examples], 0),
        }
        if "token_type_ids" in examples[0]:
            inputs["token_type_ids"] = pad([example["token_type_ids"] for example in examples], 0)
        return inputs

    def batch(self, examples: Sequence[Example], ids: Sequence[int], targets: Tensor, weights: Tensor) -> Batch:
        """The padded examples with their targets [samples, …] and weights."""
        return Batch(
            inputs=self.padded(examples),
            targets=targets,
            weights=weights,
            ids=torch.tensor(list(ids)),
            tokens=sum(int(example["length"]) for example in examples),
        )


def marks_of(tokenizer: Any) -> frozenset[str]:
    """The special tokens of a tokenizer, such as those for begin, end, padding and mask.

    Within a text they are ordinary characters: else a text could end too early.
    """
    ends = {tokenizer.cls_token, tokenizer.sep_token, tokenizer.bos_token, tokenizer.eos_token}
    others = {tokenizer.pad_token, tokenizer.mask_token} - {tokenizer.unk_token}
    return frozenset(str(mark) for mark in ends | others if mark)


def plainly(
    tokenizer: Any, row: Row, marks: Collection[str], text: Any, pair: str | None = None, **options: Any
) -> Any:
    """Tokenise one text (or pair), reading special tokens within it as ordinary characters.

    Raises DataError if a special token is also in the tokenizer's vocabulary as a word, so that this is impossible.
    """
    found = tokenizer(text, pair, split_special_tokens=True, return_special_tokens_mask=True, **options)
    added = found.pop("special_tokens_mask")
    numbers = {tokenizer.convert_tokens_to_ids(mark): mark for mark in marks}
    for number, is_added in zip(found["input_ids"], added, strict=True):
        if number in numbers and not is_added:
            mark = numbers[number]
            fault = f"the text contains {mark}, a special token that ends a text or is ignored by the model"
            fix = f"write it differently in all rows, such as {mark[:1]} {mark[1:]}, or remove these rows"
            raise DataError(row.file, f"{fault}, and its tokenizer cannot read it as plain text; {fix}", row.number)
    return found


def no_token(row: Row) -> DataError:
    """The error for a text without any token that the model knows."""
    return DataError(row.file, "the text has no token that the model's tokenizer knows; remove the row", row.number)


def pad(rows: Sequence[Any], value: int) -> Tensor:
    """[rows, longest] int64, right-padded with `value`."""
    filled = np.full((len(rows), max(len(row) for row in rows)), value, dtype=np.int64)
    for number, row in enumerate(rows):
        filled[number, : len(row)] = row
    return torch.from_numpy(filled)
