"""Exact evaluation: each sample counts once, at any world size and batch size, and only sums travel."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from launcher.data.pool import Pool
from launcher.data.prepared import Prepared
from launcher.engines.single import autocast
from launcher.measure.compare.per_sample_results import Values, in_order
from launcher.models.parts.batch import Batch, Losses
from launcher.models.tasks.base import EvalTotals, Task
from launcher.run.results import Evaluation
from launcher.worker.data.micro_batching import cut
from launcher.worker.rank.world import World

Indices = NDArray[np.int64]
Metrics = dict[str, dict[str, Any]]
"""For each validation set, the `Evaluation` as a dictionary."""


@dataclass(frozen=True)
class Measured(Evaluation):
    """An evaluation, and on rank 0, where they were asked for, the outcomes [samples, task.result_columns] float64."""

    outcomes: Values | None = None

    def as_dict(self) -> dict[str, Any]:
        """All but the outcomes."""
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
) -> Measured:
    """Measure `module` on all of `data` with all ranks; every rank gets the result.

    batch_size: samples of full length at once; shorter ones go more at a time
    before_batch: called equally often on all ranks
    keep_outcomes: gather on rank 0 what the model made of each sample
    Raises RuntimeError where the count of samples covered is not the count of samples.
    """
    begun = time.perf_counter()
    sums = torch.zeros(task.statistics_size(), dtype=torch.float64, device=world.device)
    values = torch.zeros((len(data), task.kept), dtype=torch.float64, device=world.device)
    seen, outcomes = list[NDArray[np.int64]](), list[Values]()
    with evaluating(module):
        for ids in batches_of_rank(data.lengths, batch_size, world, one_length=task.one_length):
            world.heartbeat.beat()
            before_batch()
            batch = batch_of(task, data, ids).to(world.device)
            with autocast(world.device, precision):
                losses: Losses = module(batch)
            if len(ids):
                sums += task.statistics(batch, losses.outputs)
                if task.kept:
                    values[batch.ids] = task.per_sample_values(batch, losses.outputs).double()
                if keep_outcomes and task.result_columns:
                    seen.append(ids)
                    outcomes.append(task.per_sample_results(batch, losses.outputs).cpu().numpy())
    summed = world.sum(sums)
    if summed[0] != len(data):
        raise RuntimeError(f"evaluation covered {summed[0]:.0f} of {len(data)} samples")
    # every sample's values are on one rank and zero on all others, so that their sum is what each of them was
    totals = EvalTotals(summed, world.sum(values) if task.kept else values)
    return Measured(
        samples=len(data),
        metrics=task.metrics(totals),
        intervals=task.intervals(totals),
        seconds=time.perf_counter() - begun,
        outcomes=_gathered(seen, outcomes, task, len(data), world) if keep_outcomes else None,
    )


def _gathered(
    seen: Sequence[NDArray[np.int64]], outcomes: Sequence[Values], task: Task, samples: int, world: World
) -> Values | None:
    """Every sample's outcomes in the order of the samples, on rank 0; None for a task that has none."""
    columns = len(task.result_columns)
    if not columns:
        return None
    rows = np.empty((0, 1 + columns))
    if seen:
        ids = np.concatenate(seen)
        rows = np.concatenate([ids[:, None], np.concatenate(outcomes)], axis=1)  # float64 holds whole numbers to 2⁵³
    parts = world.on_first(torch.from_numpy(rows))
    if parts is None:
        return None
    together = torch.cat(parts).numpy()
    return in_order(together[:, 0].astype(np.int64), together[:, 1:], samples)


def batches_of_rank(
    lengths: NDArray[np.int32], batch_size: int, world: World, *, one_length: bool = False
) -> Iterator[Indices]:
    """The samples of each of this rank's batches; all ranks have the same number of batches, some empty.

    Batches hold samples of like length, and at most as many tokens as `batch_size` of the longest. They are
    dealt in turns, dearest first, each second turn in reverse, so that the ranks end together.
    one_length: whether all samples of a batch must have the same length
    """
    order = np.argsort(-lengths, kind="stable")
    cuts = cut(lengths[order], batch_size * int(lengths.max(initial=1)), one_length=one_length)
    batches = [order[first:last] for first, last in pairwise(cuts)]
    turns = -(-len(batches) // world.size)
    for turn in range(turns):
        seat = world.rank if turn % 2 == 0 else world.size - 1 - world.rank
        number = turn * world.size + seat
        yield batches[number] if number < len(batches) else np.empty(0, dtype=np.int64)


def batch_of(task: Task, data: Prepared | Pool, ids: Indices) -> Batch:
    """Some samples of `data` as evaluation sees them; of none the shortest sample as filler, which any model takes."""
    if len(ids):
        return task.collate(data[ids], ids.tolist())
    shortest = int(data.lengths.argmin())
    return task.collate(data[[shortest]], [shortest]).as_filler()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Without dropout and without gradients; the module's mode is put back."""
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():  # inference mode would leave its mark on what a sharded model gathers
            yield
    finally:
        module.train(was_training)
