"""Text classification with any `transformers` encoder or decoder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from launcher.data.rows import Row
from launcher.data.values import label_of, text_of
from launcher.errors import DataError, RequestError
from launcher.job.schema import Source
from launcher.models.base import Example, Task, TaskModule
from launcher.models.batch import Batch, Losses
from launcher.models.classification_metrics import METRICS, bootstrap_intervals

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class TextClassifier(TaskModule):
    """A sequence classifier with cross-entropy.

    class_weights: [classes], or None
    """

    class_weights: Tensor | None

    def __init__(self, model: PreTrainedModel, class_weights: Tensor | None, label_smoothing: float) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.label_smoothing = label_smoothing

    def forward(self, batch: Batch) -> Losses:
        """Cross-entropy of each sample, weighted as `torch.nn.CrossEntropyLoss(weight=…)` weights it."""
        logits = self.model(**batch.inputs).logits.float()
        weighted = F.cross_entropy(
            logits,
            batch.targets,
            weight=self.class_weights,
            label_smoothing=self.label_smoothing,
            reduction="none",
        )
        return Losses(weighted=weighted * (batch.weights > 0), outputs=logits.detach())


class TextClassification(Task):
    """One label for one text."""

    name = "text-classification"
    auto_class = "AutoModelForSequenceClassification"

    @staticmethod
    def columns(source: Source, *, labelled: bool = True) -> dict[str, str]:
        """The text column, and the label column where labels are wanted."""
        return {"text": source.text, "label": source.label} if labelled else {"text": source.text}

    @staticmethod
    def survey(rows: Iterable[Row]) -> tuple[str, ...]:
        """The labels that occur: integers in numeric order, names in the order of their characters."""
        labels = {label_of(row) for row in rows}
        integers = all(label.lstrip("-").isdecimal() for label in labels)
        return tuple(sorted(labels, key=int) if integers else sorted(labels))

    def prepare(self, rows: Sequence[Row]) -> dict[str, list[Any]]:
        """Token ids, their count, and the label's index (where the rows have labels)."""
        texts = [text_of(row) for row in rows]
        ids = self.tokenizer(texts, truncation=True, max_length=self.max_length, return_attention_mask=False)[
            "input_ids"
        ]
        for row, tokens in zip(rows, ids, strict=True):
            if not tokens:
                raise DataError(
                    row.file,
                    "the text has no token that the model's tokenizer knows; remove the row",
                    row.number,
                )
        columns = {"input_ids": ids, "length": [len(tokens) for tokens in ids]}
        if rows and "label" in rows[0].values:
            columns["label"] = [self._index(row) for row in rows]
        return columns

    def _index(self, row: Row) -> int:
        label = label_of(row)
        try:
            return self.labels.index(label)
        except ValueError:
            raise DataError(
                row.file,
                f"label {label!r} does not occur in the training data, which has {_listed(self.labels)}; "
                "correct the label, or add training samples of it",
                row.number,
            ) from None

    def collate(self, examples: Sequence[Example], ids: Sequence[int]) -> Batch:
        """Right-padded token ids with their mask."""
        if not examples:
            return self._filler()
        shape = len(examples), max(example["length"] for example in examples)
        tokens = np.full(shape, self.tokenizer.pad_token_id, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        for row, example in enumerate(examples):
            tokens[row, : example["length"]] = example["input_ids"]
            mask[row, : example["length"]] = 1
        targets = torch.tensor([int(example.get("label", 0)) for example in examples])
        return Batch(
            inputs={"input_ids": torch.from_numpy(tokens), "attention_mask": torch.from_numpy(mask)},
            targets=targets,
            weights=self._weights(targets),
            ids=torch.tensor(list(ids)),
            tokens=int(mask.sum()),
        )

    def _filler(self) -> Batch:
        one = torch.ones((1, 1), dtype=torch.int64)
        return Batch(
            inputs={"input_ids": one * self.tokenizer.pad_token_id, "attention_mask": one},
            targets=torch.zeros(1, dtype=torch.int64),
            weights=torch.zeros(1),
            ids=torch.full((1,), -1),
            tokens=0,
        )

    def _weights(self, targets: Tensor) -> Tensor:
        classes = self.class_weights()
        return torch.ones(len(targets)) if classes is None else classes[targets]

    def class_weights(self) -> Tensor | None:
        """[classes] float32, or None where all count alike."""
        wanted = self.loss.class_weights
        if wanted is None:
            return None
        if wanted == "balanced":
            if not self.counts:
                return None
            total = sum(self.counts)
            return torch.tensor([total / (len(self.labels) * max(count, 1)) for count in self.counts])
        if set(wanted) != set(self.labels):
            raise RequestError(
                f"train.loss.class_weights names {_listed(sorted(wanted))}, but the labels are "
                f"{_listed(self.labels)}; give one weight for each label"
            )
        return torch.tensor([wanted[label] for label in self.labels])

    def build(self, model: PreTrainedModel) -> TaskModule:
        """The model with its loss; the padding token is made known to models that look for it."""
        if model.config.pad_token_id is None:
            model.config.pad_token_id = self.tokenizer.pad_token_id
        return TextClassifier(model, self.class_weights(), self.loss.label_smoothing)

    def statistics_size(self) -> int:
        """Count, sum of losses, sum of their squares, confusion matrix."""
        return 3 + len(self.labels) ** 2

    def statistics(self, batch: Batch, outputs: Tensor) -> Tensor:
        """The loss here is plain cross-entropy: neither class weights nor smoothing blur a comparison."""
        losses = F.cross_entropy(outputs, batch.targets, reduction="none").double()
        classes = len(self.labels)
        cells = batch.targets * classes + outputs.argmax(-1)
        head = torch.stack([losses.new_tensor(len(losses)), losses.sum(), losses.square().sum()])
        return torch.cat([head, torch.bincount(cells, minlength=classes**2).double()])

    def metrics(self, statistics: Tensor) -> dict[str, float]:
        """Loss, accuracy, balanced accuracy, macro F1 and Matthews correlation."""
        counts = self._confusion(statistics)
        samples, total = statistics[0].item(), statistics[1].item()
        return {"loss": total / samples} | {name: float(metric(counts)) for name, metric in METRICS.items()}

    def intervals(self, statistics: Tensor, seed: int) -> dict[str, tuple[float, float]]:
        """Bootstrap for what comes from counts; for the mean loss its normal limit, which needs only sums."""
        samples, total, squares = (value.item() for value in statistics[:3])
        mean = total / samples
        spread = sqrt(max(squares / samples - mean**2, 0.0) / samples)
        loss = (mean - 1.96 * spread, mean + 1.96 * spread)
        return {"loss": loss} | bootstrap_intervals(self._confusion(statistics), seed)

    def _confusion(self, statistics: Tensor) -> np.ndarray:
        matrix: np.ndarray = statistics[3:].reshape(len(self.labels), len(self.labels)).cpu().numpy()
        return matrix

    def predictions(self, outputs: Tensor) -> list[dict[str, Any]]:
        """The most likely label and the probability of each."""
        probabilities = outputs.softmax(-1)
        best = outputs.argmax(-1).tolist()
        return [
            {
                "label": self.labels[choice],
                **{f"p_{label}": p for label, p in zip(self.labels, row, strict=True)},
            }
            for choice, row in zip(best, probabilities.tolist(), strict=True)
        ]


def _listed(labels: Sequence[str], at_most: int = 10) -> str:
    shown = ", ".join(repr(label) for label in labels[:at_most])
    return shown + (f" and {len(labels) - at_most} more" if len(labels) > at_most else "")
