"""Regression: a number for a text, or for a pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from launcher.data.rows import Row
from launcher.data.values import number_of
from launcher.models.parts.batch import Batch, Losses
from launcher.models.tasks.base import Array, EvalTotals, Example, TaskModule
from launcher.models.tasks.summed import SummedTask, Sums, ratio
from launcher.models.tasks.text import TextTask

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


class Regressor(TaskModule):
    """A model of one output with a squared error, or Huber's: squared up to `delta`, linear beyond."""

    def __init__(self, model: PreTrainedModel, loss: str, delta: float) -> None:
        super().__init__()
        self.model, self.loss, self.delta = model, loss, delta

    def forward(self, batch: Batch) -> Losses:
        """The error of each sample."""
        found = self.model(**batch.inputs).logits.float()[:, 0]
        if self.loss == "huber":
            errors = F.huber_loss(found, batch.targets, reduction="none", delta=self.delta)
        else:
            errors = (found - batch.targets).square()
        return Losses(weighted=errors * batch.weights, outputs=found.detach())


class TextRegression(SummedTask, TextTask):
    """One number per text or pair."""

    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    has_features: ClassVar[bool] = True
    losses: ClassVar[tuple[str, ...]] = ("mean-squared", "huber")
    metric_directions: ClassVar[dict[str, str]] = {
        "mse": "lower",
        "mae": "lower",
        "pearson": "higher",
        "spearman": "higher",
        "r2": "higher",
    }
    measured: ClassVar[int] = 8
    kept: ClassVar[int] = 2

    def configure(self, config: PretrainedConfig) -> None:
        """Set the config's problem type to regression, with one output."""
        config.num_labels = 1
        config.problem_type = "regression"

    def prepare(self, rows: Sequence[Row], *, labelled: bool) -> dict[str, list[Any]]:
        """Token ids, their number, and the target."""
        columns = self.encode(rows)
        if labelled:
            columns["target"] = [number_of(row) for row in rows]
        return columns

    def collate(self, examples: Sequence[Example], ids: Sequence[int], epoch: int | None = None) -> Batch:
        """Right-padded token ids with the attention mask, and the targets in fp32."""
        targets = torch.tensor([float(example.get("target", 0.0)) for example in examples])
        return self.batch(examples, ids, targets, torch.ones(len(targets)))

    def build(self, model: PreTrainedModel) -> TaskModule:
        """The model with its loss; its config gets the padding token."""
        if getattr(model.config, "pad_token_id", 0) is None:
            model.config.pad_token_id = self.processor.pad_token_id
        return Regressor(model, self.loss, self.train.loss.delta)

    def sample_stats(self, batch: Batch, outputs: Tensor) -> Tensor:
        """Loss, squared and absolute error, and the moments of target and prediction."""
        true, found = batch.targets.double(), outputs.double()
        error = found - true
        loss = error.square()
        if self.loss == "huber":
            loss = F.huber_loss(found, true, reduction="none", delta=self.train.loss.delta)
        moments = [true, found, true.square(), found.square(), true * found]
        return torch.stack([loss, error.square(), error.abs(), *moments], dim=1)

    def metrics_from_sums(self, sums: Sums) -> dict[str, Sums]:
        """All metrics except Spearman's correlation; correlations with a constant target or prediction are 0.

        R² of a constant target is 1 if each prediction is exact, else 0, as in scikit-learn.
        """
        loss, squared, absolute, true, found, true2, found2, both = np.moveaxis(sums[..., 1:] / sums[..., :1], -1, 0)
        spread = _spread(true, true2)
        spreads = np.sqrt(spread * _spread(found, found2))
        return {
            "loss": loss,
            "mse": squared,
            "mae": absolute,
            "pearson": ratio(both - true * found, spreads),
            "r2": np.where(spread > 0, 1 - ratio(squared, spread), np.where(squared > 0, 0.0, 1.0)),
        }

    @property
    def result_columns(self) -> tuple[str, ...]:
        """Names of the summands."""
        return ("loss", "squared", "absolute", "true", "predicted", "true_squared", "predicted_squared", "product")

    def resampled(self, outcomes: Array, weights: Array) -> dict[str, Array]:
        """The metrics from sums, and Spearman's correlation."""
        return super().resampled(outcomes, weights) | {
            "spearman": weighted_spearman(outcomes[:, 3], outcomes[:, 4], weights)
        }

    def per_sample_values(self, batch: Batch, outputs: Tensor) -> Tensor:
        """Target and prediction of each sample, since ranks cannot be computed from sums."""
        return torch.stack([batch.targets, outputs], dim=1)

    def metrics(self, totals: EvalTotals) -> dict[str, float]:
        """The metrics from sums, and Spearman's correlation."""
        return super().metrics(totals) | {"spearman": spearman(*totals.values.cpu().numpy().T)}

    def intervals(self, totals: EvalTotals) -> dict[str, tuple[float, float]]:
        """The intervals from resamples; for Spearman's, that of Bonett and Wright (2000, Psychometrika 65)."""
        rho, samples = spearman(*totals.values.cpu().numpy().T), len(totals.values)
        spread = 1.96 * np.sqrt((1 + rho**2 / 2) / max(samples - 3, 1))
        middle = np.arctanh(np.clip(rho, -1 + 1e-12, 1 - 1e-12))
        ends = (float(np.tanh(middle - spread)), float(np.tanh(middle + spread)))
        return super().intervals(totals) | {"spearman": ends}

    def predictions(self, outputs: Tensor) -> list[dict[str, Any]]:
        """The number."""
        return [{"prediction": value} for value in outputs.tolist()]


def spearman(one: Sums, other: Sums) -> float:
    """Pearson's correlation of the ranks; ties get their mean rank. 0 if one is constant."""
    ranks = [_ranks(values) for values in (one, other)]
    one, other = (rank - rank.mean() for rank in ranks)
    return float(ratio((one * other).sum(), np.sqrt((one**2).sum() * (other**2).sum())))


def _ranks(values: Sums) -> Sums:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    means: Sums = np.cumsum(counts) - (counts - 1) / 2
    return means[places]


def weighted_spearman(one: Array, other: Array, weights: Array) -> Array:
    """[draws] Spearman's correlation of samples with weights [draws, samples]."""
    total = weights.sum(-1, keepdims=True)
    ranks = [_weighted_ranks(values, weights) for values in (one, other)]
    one, other = (rank - (weights * rank).sum(-1, keepdims=True) / total for rank in ranks)
    spreads = (weights * one**2).sum(-1) * (weights * other**2).sum(-1)
    return ratio((weights * one * other).sum(-1), np.sqrt(spreads))


def _weighted_ranks(values: Array, weights: Array) -> Array:
    """[draws, samples] ranks among copies of the samples; ties get their mean rank."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    order = np.argsort(places, kind="stable")
    shares = np.add.reduceat(weights[:, order], np.cumsum(counts) - counts, axis=1)
    means: Array = np.cumsum(shares, axis=1) - (shares - 1) / 2
    return means[:, places]


def _spread(mean: Sums, mean_of_squares: Sums) -> Sums:
    """The variance; 0 if it is only rounding error."""
    spread = mean_of_squares - mean**2
    return np.where(spread > 1e-12 * mean_of_squares, spread, 0.0)
