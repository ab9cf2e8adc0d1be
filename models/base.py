"""What a task family supplies, from a row of a file to a metric.

The training loop and the engines know only these types, so a new family is one new file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from launcher.data.rows import Row
from launcher.job.schema import Loss, Source
from launcher.models.batch import Batch, Losses

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Example = Mapping[str, Any]
"""One prepared sample: for each column an integer or a numpy array of integers."""


class TaskModule(nn.Module, ABC):
    """The pretrained model together with its loss, so that one wrapped forward does both.

    `model` is what is saved; anything beside it (an adversary, a teacher) is not.
    """

    model: PreTrainedModel

    @abstractmethod
    def forward(self, batch: Batch) -> Losses:
        """Losses of each sample."""


class Task(ABC):
    """A task family: a label set, a tokenizer, and the steps between a row and a metric.

    labels: the names of the classes in the order of the model's outputs
    max_length: tokens of a sample beyond which it is cut
    loss: what is minimised
    counts: training samples of each label, for balanced weights; empty where nothing is trained
    """

    name: ClassVar[str]
    auto_class: ClassVar[str]
    """Name of the `transformers` class that loads the model."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        labels: Sequence[str],
        max_length: int,
        loss: Loss,
        counts: Sequence[int] = (),
    ) -> None:
        self.tokenizer, self.labels = tokenizer, tuple(labels)
        self.max_length, self.loss, self.counts = max_length, loss, tuple(counts)

    @staticmethod
    @abstractmethod
    def columns(source: Source, *, labelled: bool = True) -> dict[str, str]:
        """Which columns of a file are read: role (`text`, `label`) to the column's name in the file."""

    @staticmethod
    @abstractmethod
    def survey(rows: Iterable[Row]) -> tuple[str, ...]:
        """The label set that the training rows use, in the order of the model's outputs."""

    @abstractmethod
    def prepare(self, rows: Sequence[Row]) -> dict[str, list[Any]]:
        """Some rows as columns of integers or lists of integers; one of them is `length`, in tokens.

        Raises DataError with file and row for a row that cannot be used.
        """

    @abstractmethod
    def collate(self, examples: Sequence[Example], ids: Sequence[int]) -> Batch:
        """Prepared samples as one padded batch on the CPU; no samples give one row of filler."""

    @abstractmethod
    def build(self, model: PreTrainedModel) -> TaskModule:
        """Join the pretrained model and the loss."""

    @abstractmethod
    def statistics(self, batch: Batch, outputs: Tensor) -> Tensor:
        """Float64 vector that sums over samples, batches and ranks; entry 0 is the count of samples."""

    @abstractmethod
    def statistics_size(self) -> int:
        """Length of that vector."""

    @abstractmethod
    def metrics(self, statistics: Tensor) -> dict[str, float]:
        """The metrics of summed statistics; `loss` is always one of them."""

    @abstractmethod
    def intervals(self, statistics: Tensor, seed: int) -> dict[str, tuple[float, float]]:
        """A 95 % bootstrap interval for each metric."""

    @abstractmethod
    def predictions(self, outputs: Tensor) -> list[dict[str, Any]]:
        """One row of output for each sample."""
