"""The interface of a task family, from a row of a file to a metric.

The training loop and the engines use only these types, so a new family is one new file. What every family has:

    columns          the columns of a file that it reads   from `inputs` and `targets`
    collect_labels   the labels in the training data       if there are classes
    prepare          rows to integers, once, stored on disk
    collate          prepared samples to a padded batch
    build            the pretrained model with its loss    a `TaskModule`: losses of samples or tokens, and weights
    statistics, metrics, intervals                         float64 sums, the same at any world size
    per_sample_results, resampled                          stored results of each sample, and metrics of a resample
    predictions

A family whose metrics are functions of sums over samples derives from `SummedTask` (models/tasks/summed.py) and returns
the summands. One that reads texts derives from `TextTask` (models/tasks/text.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from launcher.data.rows import Row
from launcher.job.sections.data import Source
from launcher.job.sections.training import Train
from launcher.models.parts.batch import Batch, Losses

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

Array = NDArray[np.float64]
Example = Mapping[str, Any]
"""One prepared sample: for each column a number or a numpy array of numbers."""


class TaskModule(nn.Module, ABC):
    """The pretrained model together with its loss, so that one forward computes both.

    Only `model` is saved; other submodules (a discriminator, a teacher) are not.
    """

    model: PreTrainedModel

    @abstractmethod
    def forward(self, batch: Batch) -> Losses:
        """The loss of each sample."""


@dataclass(frozen=True)
class EvalTotals:
    """The totals of an evaluation over all samples, the same on every rank.

    sums: float64 [statistics_size], the sum of `statistics`
    values: float64 [samples, kept], the results of `per_sample_values`, in the order of the samples
    """

    sums: Tensor
    values: Tensor


class Task(ABC):
    """A task family: a processor, possibly a label set, and the steps between a row and a metric.

    processor: the model's tokenizer, image processor or feature extractor
    labels: names of the classes in the order of the model's outputs; empty without classes
    train: the job's settings; in inference those that the model was trained with
    counts: training samples of each label, for balanced weights; empty in inference

    Class attributes are plain values, since `adaptrun check` reads them without running the file.
    """

    auto_class: ClassVar[str]
    """Name of the `transformers` class that loads the model."""
    processor_class: ClassVar[str] = "AutoTokenizer"
    """Name of the `transformers` class that loads the processor."""
    inputs: ClassVar[tuple[str, ...]] = ("text",)
    """Roles of the columns that are inputs of the model."""
    targets: ClassVar[tuple[str, ...]] = ()
    """Roles of the columns that are absent in prediction."""
    losses: ClassVar[tuple[str, ...]]
    """Allowed values of `train.loss.name`; `auto` is the first."""
    settings: ClassVar[tuple[str, ...]] = ()
    """Fields of `train` that only some families use, including this one."""
    prepares_with: ClassVar[tuple[str, ...]] = ()
    """Fields of `train` that `prepare` reads, in addition to those that every task's prepared data depend on."""
    metric_directions: ClassVar[dict[str, str]] = {}
    """Metrics other than the loss, and whether `higher` or `lower` is better."""
    has_classes: ClassVar[bool] = False
    """Whether the labels in the training data are the names of the model's outputs."""
    has_features: ClassVar[bool] = False
    """Whether the model computes one feature vector per sample, which adaptation methods may use."""
    learns_language: ClassVar[bool] = False
    """Whether the model's outputs are tokens, so that training on texts is the task itself."""
    counted_in: ClassVar[str] = "tokens"
    """Unit of a sample's length; for samples of equal cost their kind: images, sounds."""
    takes_vectors: ClassVar[bool] = False
    """Whether labels may be 0/1 vectors, which are converted to lists of names."""
    kept: ClassVar[int] = 0
    """Number of columns of `per_sample_values`."""
    yes_or_no: ClassVar[str] = ""
    """The metric that is the share of correctly predicted samples; empty if there is none."""
    packs: bool = False
    """Whether a training batch packs several samples into each row."""
    one_length: bool = False
    """Whether all samples of a batch must have the same length, since padding would change the model's outputs.

    `launcher/worker/evaluation/padding_check.py` sets it when the model and the data are known.
    """
    variants: ClassVar[dict[str, str]] = {}
    """Losses for which another class of the same file is used, with the class's name."""

    def __init__(self, processor: Any, labels: Sequence[str], train: Train, counts: Sequence[int] = ()) -> None:
        self.processor, self.labels, self.train, self.counts = processor, tuple(labels), train, tuple(counts)

    @property
    def loss(self) -> str:
        """Name of the loss."""
        named = self.train.loss.name
        return self.losses[0] if named == "auto" else named

    @classmethod
    def columns(cls, source: Source, *, labelled: bool = True) -> dict[str, str]:
        """The columns that are read: role to the column's name in the file."""
        roles = (*cls.inputs, *(cls.targets if labelled else ()))
        return {role: name for role in roles if (name := source.column(role)) is not None}

    def collect_labels(self, rows: Iterable[Row]) -> tuple[str, ...]:
        """The label set of the training rows, in the order of the model's outputs."""
        return ()

    def configure(self, config: PretrainedConfig) -> None:
        """Set the fields of the model's config that its head depends on, before the model is built."""
        return

    @abstractmethod
    def prepare(self, rows: Sequence[Row], *, labelled: bool) -> dict[str, list[Any]]:
        """Rows as columns of numbers, or of lists or arrays of numbers.

        One column is `length`, the cost of a sample (tokens); one is `label` if there are classes.
        labelled: False for prediction, without targets
        Raises DataError with file and row for a row that cannot be used.
        """

    @abstractmethod
    def collate(self, examples: Sequence[Example], ids: Sequence[int], epoch: int | None = None) -> Batch:
        """Prepared samples, at least one, as one padded batch on the CPU.

        ids: positions of the samples in their data set. Anything random must be a function of the seed, the id and the
        epoch alone, so that it does not depend on how a batch is split.
        epoch: None in evaluation
        """

    def collate_padded(self, examples: Sequence[Example], ids: Sequence[int]) -> Batch:
        """Samples padded for one call of the model; `generate` may need another padding."""
        return self.collate(examples, ids)

    @abstractmethod
    def build(self, model: PreTrainedModel) -> TaskModule:
        """Combine the pretrained model and the loss."""

    @abstractmethod
    def statistics_size(self) -> int:
        """Length of the vector of statistics."""

    @abstractmethod
    def statistics(self, batch: Batch, outputs: Tensor) -> Tensor:
        """Float64 vector that is summed over samples, batches and ranks; entry 0 is the number of samples."""

    @abstractmethod
    def metrics(self, totals: EvalTotals) -> dict[str, float]:
        """The metrics of all samples; `loss` is always one of them."""

    @abstractmethod
    def intervals(self, totals: EvalTotals) -> dict[str, tuple[float, float]]:
        """A 95 % interval for each metric."""

    @abstractmethod
    def predictions(self, outputs: Tensor) -> list[dict[str, Any]]:
        """One output row per sample."""

    def answer(self, module: TaskModule, batch: Batch) -> list[dict[str, Any]]:
        """Predictions for a batch of samples without targets."""
        return self.predictions(module(batch).outputs)

    def per_sample_values(self, batch: Batch, outputs: Tensor) -> Tensor:
        """[samples, kept] numbers of each sample for metrics that sums are not sufficient for (ranks, for example)."""
        return outputs.new_zeros((len(batch.ids), self.kept))

    @property
    def result_columns(self) -> tuple[str, ...]:
        """Names of the columns of `per_sample_results`, by which two models are compared; empty: no verdict."""
        return ()

    def per_sample_results(self, batch: Batch, outputs: Tensor) -> Tensor:
        """Float64 [samples, result_columns], from which `resampled` computes the metrics."""
        return outputs.new_zeros((len(batch.ids), len(self.result_columns)), dtype=torch.float64)

    def resampled(self, outcomes: Array, weights: Array) -> dict[str, Array]:
        """Each metric [draws] of outcomes [samples, columns] with weights [draws, samples]."""
        return {}

    def constant_results(self, outcomes: Array) -> Array | None:
        """The outcomes of always predicting the most frequent label in training; None if there is no such label."""
        return None

    def scores(self, outcomes: Array) -> tuple[Array, NDArray[np.int64]] | None:
        """Logits [samples, classes] and labels [samples]; None if the task is not a classification."""
        return None

    def right(self, outcomes: Array) -> NDArray[np.bool_]:
        """[samples] whether each was predicted correctly, as in the metric `yes_or_no`."""
        raise NotImplementedError
