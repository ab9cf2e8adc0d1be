"""What a task family supplies, from a row of a file to a metric.

The training loop and the engines know only these types, so a new family is one new file. What every family needs:

    columns          which columns of a file it reads      said by `inputs` and `targets`
    collect_labels   what the training data decide         the labels, where there are classes
    prepare          rows to integers, once, kept on disk
    collate          prepared samples to a padded batch
    build            the pretrained model with its loss    a `TaskModule`: losses of samples or tokens, and weights
    statistics, metrics, intervals                         float64 sums, the same at any world size
    per_sample_results, resampled                          what is kept of each sample, and the metrics of a resample
    predictions

A family whose metrics follow from a few numbers a sample derives from `SummedTask` (models/tasks/summed.py): it gives
those numbers. One that reads texts derives from `TextTask` (models/tasks/text.py).
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
    """The pretrained model together with its loss, so that one wrapped forward does both.

    `model` is what is saved; anything beside it (an adversary, a teacher) is not.
    """

    model: PreTrainedModel

    @abstractmethod
    def forward(self, batch: Batch) -> Losses:
        """Losses of each sample."""


@dataclass(frozen=True)
class EvalTotals:
    """What an evaluation of all samples comes to, the same on every rank.

    sums: float64 [statistics_size], what `statistics` added up to
    values: float64 [samples, kept], what `values` gave, in the order of the samples
    """

    sums: Tensor
    values: Tensor


class Task(ABC):
    """A task family: a processor, perhaps a label set, and the steps between a row and a metric.

    processor: the tokenizer (or image processor, feature extractor) that came with the model
    labels: the names of the classes in the order of the model's outputs; empty where there are no classes
    train: the job's settings; a finished model's where nothing is trained
    counts: training samples of each label, for balanced weights; empty where nothing is trained

    Class attributes are plain values, since `adaptrun check` reads them without running the file.
    """

    auto_class: ClassVar[str]
    """Name of the `transformers` class that loads the model."""
    processor_class: ClassVar[str] = "AutoTokenizer"
    """Name of the `transformers` class that loads what turns a row into numbers."""
    inputs: ClassVar[tuple[str, ...]] = ("text",)
    """Roles of the columns that the model sees."""
    targets: ClassVar[tuple[str, ...]] = ()
    """Roles of the columns that are not there when predicting."""
    losses: ClassVar[tuple[str, ...]]
    """What `train.loss.name` may be; the first is what `auto` means."""
    settings: ClassVar[tuple[str, ...]] = ()
    """Fields of `train` that only some families use, and this one does."""
    prepares_with: ClassVar[tuple[str, ...]] = ()
    """Fields of `train` that `prepare` reads, beside those that decide the data of every task."""
    metric_directions: ClassVar[dict[str, str]] = {}
    """Metrics beside the loss, and whether `higher` or `lower` is better."""
    has_classes: ClassVar[bool] = False
    """Whether the training data's labels name the model's outputs."""
    has_features: ClassVar[bool] = False
    """Whether the model makes one feature vector of each sample, which methods of adapting may look at."""
    learns_language: ClassVar[bool] = False
    """Whether the model's outputs are words, so that training on texts is the task itself."""
    counted_in: ClassVar[str] = "tokens"
    """What a sample is made of; where it is made of nothing that is counted, what it is: images, sounds."""
    takes_vectors: ClassVar[bool] = False
    """Whether labels may be vectors of 0 and 1, which it is then given as lists of names."""
    kept: ClassVar[int] = 0
    """Columns of `values`."""
    yes_or_no: ClassVar[str] = ""
    """The metric that is the share of samples answered right; empty where there is none."""
    packs: bool = False
    """Whether a training batch lays several samples into each row."""
    one_length: bool = False
    """Whether a batch must hold samples of one length, since padding would change the model's numbers.

    Set once the model and the data are known, by `launcher/worker/evaluation/padding_check.py`.
    """
    variants: ClassVar[dict[str, str]] = {}
    """Losses that make it another class of the same file, by the class's name."""

    def __init__(self, processor: Any, labels: Sequence[str], train: Train, counts: Sequence[int] = ()) -> None:
        self.processor, self.labels, self.train, self.counts = processor, tuple(labels), train, tuple(counts)

    @property
    def loss(self) -> str:
        """Name of the loss."""
        named = self.train.loss.name
        return self.losses[0] if named == "auto" else named

    @classmethod
    def columns(cls, source: Source, *, labelled: bool = True) -> dict[str, str]:
        """Which columns of a file are read: role to the column's name in the file."""
        roles = (*cls.inputs, *(cls.targets if labelled else ()))
        return {role: name for role in roles if (name := source.column(role)) is not None}

    def collect_labels(self, rows: Iterable[Row]) -> tuple[str, ...]:
        """The label set that the training rows use, in the order of the model's outputs."""
        return ()

    def configure(self, config: PretrainedConfig) -> None:
        """Set what the model's config must say before its head is made."""
        return

    @abstractmethod
    def prepare(self, rows: Sequence[Row], *, labelled: bool) -> dict[str, list[Any]]:
        """Some rows as columns of numbers, or of lists or arrays of numbers.

        One column is `length`, what a sample costs (tokens); one is `label` where there are classes.
        labelled: false for prediction, where the targets are not there
        Raises DataError with file and row for a row that cannot be used.
        """

    @abstractmethod
    def collate(self, examples: Sequence[Example], ids: Sequence[int], epoch: int | None = None) -> Batch:
        """Prepared samples as one padded batch on the CPU; there is at least one.

        ids: positions of the samples in their data set. What is drawn at random is a function of the seed, the id and
        the epoch alone, so that no split changes it.
        epoch: None in evaluation
        """

    def collate_padded(self, examples: Sequence[Example], ids: Sequence[int]) -> Batch:
        """Samples padded as one call of the model takes them; `generate` may want them padded otherwise."""
        return self.collate(examples, ids)

    @abstractmethod
    def build(self, model: PreTrainedModel) -> TaskModule:
        """Join the pretrained model and the loss."""

    @abstractmethod
    def statistics_size(self) -> int:
        """Length of the vector of statistics."""

    @abstractmethod
    def statistics(self, batch: Batch, outputs: Tensor) -> Tensor:
        """Float64 vector that sums over samples, batches and ranks; entry 0 is the count of samples."""

    @abstractmethod
    def metrics(self, totals: EvalTotals) -> dict[str, float]:
        """The metrics of all samples; `loss` is always one of them."""

    @abstractmethod
    def intervals(self, totals: EvalTotals) -> dict[str, tuple[float, float]]:
        """A 95 % interval for each metric."""

    @abstractmethod
    def predictions(self, outputs: Tensor) -> list[dict[str, Any]]:
        """One row of output for each sample."""

    def answer(self, module: TaskModule, batch: Batch) -> list[dict[str, Any]]:
        """Predictions for a batch of samples without targets."""
        return self.predictions(module(batch).outputs)

    def per_sample_values(self, batch: Batch, outputs: Tensor) -> Tensor:
        """[samples, kept] numbers that a metric needs of each sample, where sums do not do (ranks, say)."""
        return outputs.new_zeros((len(batch.ids), self.kept))

    @property
    def result_columns(self) -> tuple[str, ...]:
        """What `outcomes` gives of a sample, so that two models can be compared on the same ones; empty: no verdict."""
        return ()

    def per_sample_results(self, batch: Batch, outputs: Tensor) -> Tensor:
        """Float64 [samples, result_columns], from which `resampled` makes the metrics."""
        return outputs.new_zeros((len(batch.ids), len(self.result_columns)), dtype=torch.float64)

    def resampled(self, outcomes: Array, weights: Array) -> dict[str, Array]:
        """Each metric [draws] of outcomes [samples, columns] that count as often as weights [draws, samples] say."""
        return {}

    def constant_results(self, outcomes: Array) -> Array | None:
        """The outcomes of always answering what is commonest in training; None where there is no such answer."""
        return None

    def scores(self, outcomes: Array) -> tuple[Array, NDArray[np.int64]] | None:
        """Scores [samples, classes] before the softmax and labels [samples]; None for what is no classifier."""
        return None

    def right(self, outcomes: Array) -> NDArray[np.bool_]:
        """[samples] whether each was answered right, as `yes_or_no` counts it."""
        raise NotImplementedError
