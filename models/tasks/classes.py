"""Classification of any input: the label set, the losses, the metrics and the predictions.

`Classes`: one label per sample. `LabelSets`: any number of labels per sample (multi-label).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from math import sqrt
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from launcher.data.label_vectors import hint_at_vectors
from launcher.data.labels import find_label, listed
from launcher.data.rows import Row
from launcher.data.values import label_of, labels_of
from launcher.errors import DataError, ModelError, RequestError
from launcher.models.parts.batch import Batch, Losses
from launcher.models.parts.classification_metrics import METRICS, Cells, bootstrap_intervals, of_samples
from launcher.models.tasks.base import Array, EvalTotals, Example, Task, TaskModule
from launcher.models.tasks.summed import SummedTask, Sums, ratio

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


MOST_SCORES = 64
"""Maximum number of classes for which the scores of every sample are stored."""


class Classifier(TaskModule):
    """A model with one logit per class, and one of three losses.

    class_weights: [classes], or None
    focal: −wₜ·(1 − pₜ)^γ·log pₜ (Lin et al. 2017, "Focal Loss for Dense Object Detection")
    """

    class_weights: Tensor | None

    def __init__(self, model: PreTrainedModel, task: Task, class_weights: Tensor | None) -> None:
        super().__init__()
        self.model, self.loss, self.settings = model, task.loss, task.train.loss
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, batch: Batch) -> Losses:
        """The loss of each sample, weighted as in `torch.nn.CrossEntropyLoss(weight=…)`."""
        logits = self.model(**batch.inputs).logits.float()
        if self.loss == "binary":
            weighted = F.binary_cross_entropy_with_logits(logits, batch.targets, reduction="none").mean(-1)
        elif self.loss == "focal":
            plain = F.cross_entropy(logits, batch.targets, reduction="none")
            weighted = (1 - torch.exp(-plain)).clamp(min=1e-12).pow(self.settings.gamma) * plain * batch.weights
        else:
            smoothing = self.settings.label_smoothing
            weighted = F.cross_entropy(
                logits, batch.targets, weight=self.class_weights, label_smoothing=smoothing, reduction="none"
            )
        return Losses(weighted=weighted * (batch.weights > 0), outputs=logits.detach())


class Classification(Task):
    """What single-label and multi-label classification have in common."""

    has_classes: ClassVar[bool] = True
    targets: ClassVar[tuple[str, ...]] = ("label",)

    def index(self, row: Row, label: str) -> int:
        """The index of a label among the model's outputs: of the same name, else of one that differs only in case.

        Raises DataError for a label that does not occur in training.
        """
        places = self._places
        if label not in places:
            try:
                places[label] = find_label(self.labels, label)
            except ModelError as error:
                raise DataError(row.file, str(error), row.number) from None
        place = places[label]
        if place is not None and self.labels[place] != label:
            self.renamed[label] = self.labels[place]
        if place is None:
            raise DataError(
                row.file,
                f"label {label!r} does not occur in the training data, which has {listed(self.labels)}; "
                f"correct the label, or add training samples of it{hint_at_vectors([label]) * self.takes_vectors}",
                row.number,
            )
        return place

    @cached_property
    def renamed(self) -> dict[str, str]:
        """Labels of the data that were matched with differently spelled labels of the model, for a note."""
        return {}

    @cached_property
    def _places(self) -> dict[str, int | None]:
        return {label: place for place, label in enumerate(self.labels)}

    def build(self, model: PreTrainedModel) -> TaskModule:
        """The model with its loss; its config gets the padding token."""
        if getattr(model.config, "pad_token_id", 0) is None:
            model.config.pad_token_id = getattr(self.processor, "pad_token_id", None)
        return Classifier(model, self, self.class_weights())

    def class_weights(self) -> Tensor | None:
        """[classes] float32, or None for equal weights."""
        wanted = self.train.loss.class_weights
        if wanted is None:
            return None
        if wanted == "balanced":
            if not self.counts:
                return None
            total = sum(self.counts)
            return torch.tensor([total / (len(self.labels) * max(count, 1)) for count in self.counts])
        if set(wanted) != set(self.labels):
            raise RequestError(
                f"train.loss.class_weights names {listed(sorted(wanted))}, but the labels are "
                f"{listed(self.labels)}; give one weight for each label"
            )
        return torch.tensor([wanted[label] for label in self.labels])


class Classes(Classification):
    """One label per sample."""

    losses: ClassVar[tuple[str, ...]] = ("cross-entropy", "focal", "binary")
    metric_directions: ClassVar[dict[str, str]] = {
        "accuracy": "higher",
        "balanced_accuracy": "higher",
        "macro_f1": "higher",
        "matthews": "higher",
    }
    yes_or_no: ClassVar[str] = "accuracy"

    def configure(self, config: PretrainedConfig) -> None:
        """Set the config's problem type to single-label classification."""
        config.problem_type = "single_label_classification"

    def collect_labels(self, rows: Iterable[Row]) -> tuple[str, ...]:
        """The labels that occur: integers in numeric order, names in alphabetical order."""
        return ordered({label_of(row) for row in rows})

    def indices(self, rows: Sequence[Row]) -> list[int]:
        """The column `label` of rows: an index each."""
        return [self.index(row, label_of(row)) for row in rows]

    def answers(self, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
        """Targets [samples] int64 and weights [samples]."""
        targets = torch.tensor([int(example.get("label", 0)) for example in examples])
        classes = self.class_weights()
        return targets, torch.ones(len(targets)) if classes is None else classes[targets]

    kept: ClassVar[int] = 1
    """The cell of the confusion matrix."""

    def statistics_size(self) -> int:
        """Number of samples, sum of losses, sum of their squares."""
        return 3

    def statistics(self, batch: Batch, outputs: Tensor) -> Tensor:
        """The loss is plain cross-entropy, without class weights and label smoothing, to be comparable."""
        losses = F.cross_entropy(outputs, batch.targets, reduction="none").double()
        return torch.stack([losses.new_tensor(len(losses)), losses.sum(), losses.square().sum()])

    def per_sample_values(self, batch: Batch, outputs: Tensor) -> Tensor:
        """[samples, 1] true class · classes + predicted class: float64 represents integers up to 2⁵³."""
        return (batch.targets * len(self.labels) + outputs.argmax(-1))[:, None].double()

    def metrics(self, totals: EvalTotals) -> dict[str, float]:
        """Loss, accuracy, balanced accuracy, macro F1 and Matthews correlation."""
        cells = self._cells(totals)
        counts = cells.counts(cells.samples[None].astype(np.float64))
        samples, total = totals.sums[0].item(), totals.sums[1].item()
        return {"loss": total / samples} | {name: metric(counts).item() for name, metric in METRICS.items()}

    def intervals(self, totals: EvalTotals) -> dict[str, tuple[float, float]]:
        """Bootstrap intervals for metrics of counts; a normal interval for the mean loss, which needs only sums."""
        samples, total, squares = (value.item() for value in totals.sums[:3])
        mean = total / samples
        spread = sqrt(max(squares / samples - mean**2, 0.0) / samples)
        loss = (mean - 1.96 * spread, mean + 1.96 * spread)
        return {"loss": loss} | bootstrap_intervals(self._cells(totals), self.train.seed)

    @property
    def result_columns(self) -> tuple[str, ...]:
        """Loss, label and prediction; up to `MOST_SCORES` classes also the logits, for the calibration."""
        scores = len(self.labels) if len(self.labels) <= MOST_SCORES else 0
        return ("loss", "label", "predicted", *(f"score_{number}" for number in range(scores)))

    def per_sample_results(self, batch: Batch, outputs: Tensor) -> Tensor:
        """The loss as in `statistics`; classes by their indices."""
        losses = F.cross_entropy(outputs, batch.targets, reduction="none")
        head = torch.stack([losses.double(), batch.targets.double(), outputs.argmax(-1).double()], dim=1)
        return torch.cat([head, outputs.double()], dim=1)[:, : len(self.result_columns)]

    def resampled(self, outcomes: Array, weights: Array) -> dict[str, Array]:
        """The mean loss, and the metrics of class counts."""
        counts = of_samples(outcomes[:, 1], outcomes[:, 2], weights)
        loss = weights @ outcomes[:, 0] / weights.sum(-1)
        return {"loss": loss} | {name: metric(counts) for name, metric in METRICS.items()}

    def right(self, outcomes: Array) -> NDArray[np.bool_]:
        """[samples] whether the predicted class is the true one."""
        return np.equal(outcomes[:, 1], outcomes[:, 2])

    def constant_results(self, outcomes: Array) -> Array | None:
        """The most frequent label of the training data, with the label frequencies as probabilities."""
        if not self.counts:
            return None
        shares = (np.asarray(self.counts) + 1) / (sum(self.counts) + len(self.counts))
        labels = outcomes[:, 1]
        commonest = np.full_like(labels, np.argmax(shares))
        return np.stack([-np.log(shares[labels.astype(np.int64)]), labels, commonest], axis=1)

    def scores(self, outcomes: Array) -> tuple[Array, NDArray[np.int64]] | None:
        """The stored logits of each sample; None if there were too many classes."""
        return (outcomes[:, 3:], outcomes[:, 1].astype(np.int64)) if outcomes.shape[1] > 3 else None

    def _cells(self, totals: EvalTotals) -> Cells:
        pairs = totals.values[:, 0].cpu().numpy().astype(np.int64)
        return Cells.of_samples(*np.divmod(pairs, len(self.labels)))

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


class LabelSets(Classification, SummedTask):
    """Any number of labels per sample: a list, or a text with a separator. The threshold of a prediction is 0.5."""

    losses: ClassVar[tuple[str, ...]] = ("binary",)
    takes_vectors: ClassVar[bool] = True
    metric_directions: ClassVar[dict[str, str]] = {
        "micro_f1": "higher",
        "macro_f1": "higher",
        "accuracy": "higher",
        "exact_match": "higher",
    }
    yes_or_no: ClassVar[str] = "exact_match"

    def collect_labels(self, rows: Iterable[Row]) -> tuple[str, ...]:
        """The labels that occur in any sample."""
        return ordered({label for row in rows for label in labels_of(row)})

    def configure(self, config: PretrainedConfig) -> None:
        """Set the config's problem type to multi-label classification."""
        config.problem_type = "multi_label_classification"

    def indices(self, rows: Sequence[Row]) -> list[list[int]]:
        """The column `label` of rows: a list of indices each."""
        return [sorted({self.index(row, label) for label in labels_of(row)}) for row in rows]

    def answers(self, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
        """Targets [samples, classes] of 0 and 1, and weights [samples]."""
        targets = torch.zeros((len(examples), len(self.labels)))
        for row, example in enumerate(examples):
            targets[row, torch.as_tensor(example.get("label", ()), dtype=torch.int64)] = 1.0
        return targets, torch.ones(len(targets))

    @property
    def measured(self) -> int:  # type: ignore[override]
        """Loss, correct labels, samples with all labels correct; then per label: true positives, predicted, true."""
        return 3 + 3 * len(self.labels)

    def sample_stats(self, batch: Batch, outputs: Tensor) -> Tensor:
        """The summands of each sample, with the plain loss."""
        predicted, true = (outputs > 0).double(), batch.targets.double()
        losses = F.binary_cross_entropy_with_logits(outputs.double(), true, reduction="none").mean(-1)
        right = (predicted == true).double()
        head = torch.stack([losses, right.mean(-1), right.prod(-1)], dim=1)
        return torch.cat([head, predicted * true, predicted, true], dim=1)

    def metrics_from_sums(self, sums: Sums) -> dict[str, Sums]:
        """Loss, micro F1, macro F1 over labels that occur, accuracy of labels, accuracy of whole samples."""
        samples, (hits, predicted, true) = sums[..., 0], np.split(sums[..., 4:], 3, axis=-1)
        matters = predicted + true > 0
        return {
            "loss": sums[..., 1] / samples,
            "micro_f1": ratio(2 * hits.sum(-1), (predicted + true).sum(-1)),
            "macro_f1": ratio((ratio(2 * hits, predicted + true) * matters).sum(-1), matters.sum(-1)),
            "accuracy": sums[..., 2] / samples,
            "exact_match": sums[..., 3] / samples,
        }

    @property
    def result_columns(self) -> tuple[str, ...]:
        """Names of the summands."""
        of_labels = (f"{kind}_{number}" for kind in ("hit", "predicted", "true") for number in range(len(self.labels)))
        return ("loss", "right_share", "all_right", *of_labels)

    def right(self, outcomes: Array) -> NDArray[np.bool_]:
        """[samples] whether all labels are correct."""
        return outcomes[:, 2] > 0

    def predictions(self, outputs: Tensor) -> list[dict[str, Any]]:
        """The labels with a probability above 0.5, and the probability of each."""
        return [
            {
                "labels": [label for label, p in zip(self.labels, row, strict=True) if p > 0.5],
                **{f"p_{label}": p for label, p in zip(self.labels, row, strict=True)},
            }
            for row in outputs.sigmoid().tolist()
        ]


def ordered(labels: set[str]) -> tuple[str, ...]:
    """Integers in numeric order, names in alphabetical order."""
    integers = all(label.removeprefix("-").isdecimal() for label in labels)
    return tuple(sorted(labels, key=lambda label: (int(label), label)) if integers else sorted(labels))
