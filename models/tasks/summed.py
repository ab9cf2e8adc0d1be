"""A family whose metrics, and their bootstrap intervals, are functions of sums over samples.

In a resample of n of n samples with replacement, each sample's count is nearly Poisson(1) and nearly independent of the
others' (Hanley and MacGibbon 2006, "Creating non-parametric bootstrap samples using Poisson frequencies"). So each
sample's weight in every resample can be a function of its id. Every rank weights its own samples, and the sums of each
resample are added up over the ranks.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from launcher.models.parts.batch import Batch
from launcher.models.tasks.base import EvalTotals, Task

RESAMPLES = 500
Sums = NDArray[np.float64]


class SummedTask(Task):
    """Defines the summands of a sample, and the metrics as functions of the sums."""

    measured: ClassVar[int]
    """Number of columns of `sample_stats`."""

    @abstractmethod
    def sample_stats(self, batch: Batch, outputs: Tensor) -> Tensor:
        """[samples, measured] the summands of each sample, without the count, which is added."""

    @abstractmethod
    def metrics_from_sums(self, sums: Sums) -> dict[str, Sums]:
        """The metrics from sums [..., 1 + measured], of which the first is the count; `loss` is always one of them."""

    def statistics_size(self) -> int:
        """Length of the vector of statistics."""
        return (1 + RESAMPLES) * (1 + self.measured)

    def statistics(self, batch: Batch, outputs: Tensor) -> Tensor:
        """The sums over all samples, and over each resample for the intervals."""
        measures = self.sample_stats(batch, outputs).double()
        counted = torch.cat([measures.new_ones((len(measures), 1)), measures], dim=1)
        weights = torch.from_numpy(resampling_weights(batch.ids.tolist(), self.train.seed)).to(counted.device)
        return (weights.T @ counted).flatten()

    def metrics(self, totals: EvalTotals) -> dict[str, float]:
        """The metrics of all samples."""
        return {name: float(value) for name, value in self.metrics_from_sums(self._resampled(totals)[0]).items()}

    def intervals(self, totals: EvalTotals) -> dict[str, tuple[float, float]]:
        """The central 95 % of each metric over the resamples."""
        drawn = self._resampled(totals)[1:]
        figures = self.metrics_from_sums(drawn[drawn[:, 0] > 0])  # a resample of one or two samples may be empty
        ends = {name: np.quantile(values, [0.025, 0.975]) for name, values in figures.items()}
        return {name: (float(low), float(high)) for name, (low, high) in ends.items()}

    @property
    def result_columns(self) -> tuple[str, ...]:
        """Names of the summands."""
        return tuple(f"measure_{number}" for number in range(self.measured))

    def per_sample_results(self, batch: Batch, outputs: Tensor) -> Tensor:
        """The summands, in float64."""
        return self.sample_stats(batch, outputs).double()

    def resampled(self, outcomes: Sums, weights: Sums) -> dict[str, Sums]:
        """The metrics from weighted sums."""
        counted = np.concatenate([np.ones((len(outcomes), 1)), outcomes], axis=1)
        return self.metrics_from_sums(weights @ counted)

    def _resampled(self, totals: EvalTotals) -> Sums:
        sums: Sums = totals.sums.cpu().numpy().reshape(1 + RESAMPLES, 1 + self.measured)
        return sums


def resampling_weights(ids: Sequence[int], seed: int) -> Sums:
    """[samples, 1 + RESAMPLES] 1 for the sample itself, then its count in each resample."""
    weights = np.ones((len(ids), 1 + RESAMPLES))
    for row, sample in enumerate(ids):
        weights[row, 1:] = np.random.default_rng([seed, sample]).poisson(1.0, RESAMPLES)
    return weights


def ratio(above: Sums, below: Sums) -> Sums:
    """above / below, or 0 if below is 0."""
    above, below = np.broadcast_arrays(above, below)
    return np.divide(above, below, out=np.zeros(below.shape), where=below != 0)
