"""Exact evaluation: each sample counts once, at any world size and batch size, and only sums are communicated."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from launcher.data.prepared import Prepared
from launcher.measure.compare.per_sample_results import Values
from launcher.models.tasks.base import EvalTotals, Task
from launcher.run.results import Evaluation
from launcher.worker.evaluation.pass_over import PerSampleRows, pass_over
from launcher.worker.rank.world import World

Metrics = dict[str, dict[str, Any]]
"""For each validation set, the `Evaluation` as a dictionary."""


@dataclass(frozen=True)
class DetailedEvaluation(Evaluation):
    """An evaluation, and if requested, on rank 0 the outcomes [samples, task.result_columns] float64."""

    outcomes: Values | None = None

    def as_dict(self) -> dict[str, Any]:
        """All values except the outcomes."""
        return asdict(Evaluation(self.samples, self.metrics, self.intervals, self.seconds))


def evaluate(
    module: nn.Module,
    task: Task,
    data: Prepared,
    world: World,
    *,
    batch_size: int,
    precision: str = "fp32",
    before_batch: Callable[[], None] = lambda: None,
    keep_outcomes: bool = False,
) -> DetailedEvaluation:
    """Evaluate `module` on all of `data` with all ranks; every rank gets the result.

    batch_size: samples of full length per batch; batches of shorter samples have more
    before_batch: called equally often on all ranks
    keep_outcomes: gather the per-sample results on rank 0
    Raises RuntimeError if the task counts a wrong number of samples.
    """
    begun = time.perf_counter()
    sums = torch.zeros(task.statistics_size(), dtype=torch.float64, device=world.device)
    values, outcomes = PerSampleRows(world, len(data)), PerSampleRows(world, len(data))
    keeps_outcomes = keep_outcomes and bool(task.result_columns)
    passed = pass_over(
        data, task, module, world, module, batch_size=batch_size, precision=precision, before_batch=before_batch
    )
    for computed in passed:
        places, batch, outputs = computed.places, computed.batch, computed.result.outputs
        sums += task.statistics(batch, outputs)
        if task.kept:
            values.add(places, task.per_sample_values(batch, outputs))
        if keeps_outcomes:
            outcomes.add(places, task.per_sample_results(batch, outputs))
    summed = world.sum_over_data(sums)
    if summed[0] != len(data):
        raise RuntimeError(f"{type(task).__name__}.statistics counted {summed[0]:.0f} of {len(data)} samples")
    totals = EvalTotals(summed, values.on_all(task.kept))
    return DetailedEvaluation(
        samples=len(data),
        metrics=task.metrics(totals),
        intervals=task.intervals(totals),
        seconds=time.perf_counter() - begun,
        outcomes=outcomes.on_first(len(task.result_columns)) if keeps_outcomes else None,
    )
