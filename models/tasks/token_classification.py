"""A label for each word of a text: names, places, parts of speech. The label is on a word's first token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from launcher.data.rows import Row
from launcher.data.values import labels_of, list_of
from launcher.errors import DataError, ModelError
from launcher.models.parts.batch import Batch
from launcher.models.parts.entities import entities_of
from launcher.models.tasks.base import Example, TaskModule
from launcher.models.tasks.classes import Classification, ordered
from launcher.models.tasks.summed import SummedTask, Sums, ratio
from launcher.models.tasks.text import TextTask, marks_of, no_token, pad, plainly
from launcher.models.tasks.token_loss import IGNORE_INDEX, TokenModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class TokenClassification(Classification, SummedTask, TextTask):
    """Words beyond `max_length` tokens are neither trained on nor evaluated; a prediction has no label for them."""

    auto_class: ClassVar[str] = "AutoModelForTokenClassification"
    inputs: ClassVar[tuple[str, ...]] = ("words",)
    losses: ClassVar[tuple[str, ...]] = ("cross-entropy",)
    metric_directions: ClassVar[dict[str, str]] = {
        "f1": "higher",
        "precision": "higher",
        "recall": "higher",
        "accuracy": "higher",
    }
    measured: ClassVar[int] = 6

    def collect_labels(self, rows: Iterable[Row]) -> tuple[str, ...]:
        """The labels of all words."""
        return ordered({label for row in rows for label in labels_of(row)})

    def prepare(self, rows: Sequence[Row], *, labelled: bool) -> dict[str, list[Any]]:
        """Token ids; for each token the index of the word that it begins, else -1; the labels of the words."""
        if not self.processor.is_fast:
            raise ModelError("the tokenizer does not map tokens to words; use a fast tokenizer")
        words = [_words(row) for row in rows]
        length = self.train.max_length
        options: dict[str, Any] = {"is_split_into_words": True, "truncation": True, "max_length": length}
        found = self.processor(words, **options)
        begins = [_begins(found.word_ids(number)) for number in range(len(rows))]
        marks = marks_of(self.processor)
        for number, row in enumerate(rows):
            if any(mark in word for word in words[number] for mark in marks):
                again = plainly(self.processor, row, marks, words[number], **options)
                found["input_ids"][number], begins[number] = again["input_ids"], _begins(again.word_ids(0))
        for row, starts, ids in zip(rows, begins, found["input_ids"], strict=True):
            if max(starts, default=-1) < 0:
                raise no_token(row)
            _check_words(row, starts, is_whole=len(ids) < length)
        columns = {
            "input_ids": found["input_ids"],
            "length": [len(ids) for ids in found["input_ids"]],
            "begins": begins,
            "words": [len(some) for some in words],
        }
        if labelled:
            columns["label"] = [self._labels(row, len(some)) for row, some in zip(rows, words, strict=True)]
        return columns

    def _labels(self, row: Row, words: int) -> list[int]:
        list_of(row, "label")
        labels = [self.index(row, label) for label in labels_of(row)]
        if len(labels) != words:
            fault = f"there are {words} words and {len(labels)} labels; give each word one label"
            raise DataError(row.file, fault, row.number)
        return labels

    def collate(self, examples: Sequence[Example], ids: Sequence[int], epoch: int | None = None) -> Batch:
        """Right-padded token ids; the target of each word's first token is its label."""
        targets = pad([self._targets(example) for example in examples], IGNORE_INDEX)
        classes, counts = self.class_weights(), targets != IGNORE_INDEX
        weights = counts.float() if classes is None else classes[targets.clamp(min=0)] * counts
        return self.batch(examples, ids, targets, weights)

    def _targets(self, example: Example) -> Any:
        """The targets; without labels the first label for all words, since only the positions of words matter then."""
        labels = np.asarray(example.get("label", np.zeros(example["words"], dtype=np.int64)))
        begins = np.asarray(example["begins"])
        return np.where(begins >= 0, labels[begins], IGNORE_INDEX)

    def build(self, model: PreTrainedModel) -> TaskModule:
        """The model with its loss."""
        return TokenModel(model, self.train.loss.label_smoothing)

    def sample_stats(self, batch: Batch, outputs: Tensor) -> Tensor:
        """Loss, correct words, words; then entities that are correct, predicted, true."""
        predicted = [self._named(row) for row in self._of_words(outputs[..., 3].long(), batch.targets)]
        true = [self._named(row) for row in self._of_words(batch.targets, batch.targets)]
        pairs = [(entities_of(one), entities_of(other)) for one, other in zip(predicted, true, strict=True)]
        counts = [(len(found & wanted), len(found), len(wanted)) for found, wanted in pairs]
        entities = torch.tensor(counts, dtype=torch.float64, device=outputs.device)
        return torch.cat([outputs[..., :3].double().sum(1), entities], dim=1)

    @property
    def result_columns(self) -> tuple[str, ...]:
        """Names of the summands."""
        return ("loss", "right", "words", "entities_hit", "entities_predicted", "entities_true")

    def _of_words(self, values: Tensor, targets: Tensor) -> list[list[int]]:
        return [row[asked != IGNORE_INDEX].tolist() for row, asked in zip(values, targets, strict=True)]

    def _named(self, indices: list[int]) -> list[str]:
        return [self.labels[index] for index in indices]

    def metrics_from_sums(self, sums: Sums) -> dict[str, Sums]:
        """Loss and accuracy of words; micro-averaged precision, recall and F1 of whole entities."""
        loss, right, words, hits, predicted, true = np.moveaxis(sums[..., 1:], -1, 0)
        return {
            "loss": ratio(loss, words),
            "accuracy": ratio(right, words),
            "precision": ratio(hits, predicted),
            "recall": ratio(hits, true),
            "f1": ratio(2 * hits, predicted + true),
        }

    def predictions(self, outputs: Tensor) -> list[dict[str, Any]]:
        """A label for each word."""
        predicted = self._of_words(outputs[..., 3].long(), torch.where(outputs[..., 2] > 0, 0, IGNORE_INDEX))
        return [{"labels": self._named(row)} for row in predicted]


def _words(row: Row) -> list[str]:
    words = list_of(row, "words")
    for number, word in enumerate(words, start=1):
        if not isinstance(word, str) or not word.strip():
            raise DataError(row.file, f"word {number} is {word!r}, not text; correct it", row.number)
    return words  # type: ignore[return-value]


def _begins(words: Sequence[int | None]) -> list[int]:
    """For each token the index of the word that it begins, else -1."""
    return [
        word if word is not None and (place == 0 or words[place - 1] != word) else -1
        for place, word in enumerate(words)
    ]


def _check_words(row: Row, begins: Sequence[int], *, is_whole: bool) -> None:
    """Raises DataError for a word without tokens, such as one of invisible characters, which cannot get a label."""
    words = list_of(row, "words")
    last = len(words) - 1 if is_whole else max(begins)
    lacking = sorted({*range(last + 1)} - {*begins})
    if lacking:
        fault = (
            f"the tokenizer makes no token of word {lacking[0] + 1}, {words[lacking[0]]!r}; remove the "
            "word and its label"
        )
        raise DataError(row.file, fault, row.number)
