"""One pass over a data set: each sample is computed once, by one of the ranks, in evaluation mode.

Validation, prediction, features, target inference and checkpoint selection all use this loop, and collect what they
need from each batch. Per-sample results are also put in the order of the samples here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from launcher.data.pool import Pool
from launcher.data.prepared import Prepared
from launcher.engines.precision import autocast
from launcher.measure.compare.per_sample_results import Values, in_order
from launcher.models.parts.batch import Batch
from launcher.models.tasks.base import Example, Task
from launcher.worker.data.micro_batching import cut
from launcher.worker.rank.world import World

Indices = NDArray[np.int64]
Result = TypeVar("Result")
Collate = Callable[[Sequence[Example], Sequence[int]], Batch]


@dataclass(frozen=True)
class Computed(Generic[Result]):
    """One batch of this rank.

    places: int64 [samples] positions among the samples of the pass; empty for filler
    batch: on the device
    result: the result of `forward`
    """

    places: Indices
    batch: Batch
    result: Result


def pass_over(
    data: Prepared | Pool,
    task: Task,
    module: nn.Module,
    world: World,
    forward: Callable[[Batch], Result],
    *,
    batch_size: int,
    precision: str = "fp32",
    before_batch: Callable[[], None] = lambda: None,
    collate: Collate | None = None,
    chosen: Indices | None = None,
    with_filler: bool = False,
) -> Iterator[Computed[Result]]:
    """Compute `forward` on each batch of this rank, without dropout and gradients. Consume the iterator to its end.

    forward: called equally often on all ranks, under autocast
    batch_size: samples of full length per batch; batches of shorter samples have more
    before_batch: called equally often on all ranks; an exception in it ends the pass, so it may poll for a stop
    collate: makes a batch of samples; default: the task's, as in evaluation
    chosen: positions of the samples; default: all
    with_filler: also return the filler batches that a rank without samples computes to join the others
    Raises RuntimeError on all ranks unless each sample was computed once.
    """
    chosen = np.arange(len(data.lengths)) if chosen is None else chosen
    covered = np.zeros(2)
    with evaluating(module):
        for places in batches_of_rank(data.lengths[chosen], batch_size, world, one_length=task.one_length):
            world.heartbeat.beat()
            before_batch()
            batch = _batch_of(data, chosen[places], collate or task.collate).to(world.device)
            with autocast(world.device, precision):
                result = forward(batch)
            covered += len(places), places.sum()
            if len(places) or with_filler:
                yield Computed(places, batch, result)
    count, positions = world.sum_over_data(torch.from_numpy(covered)).tolist()
    if (count, positions) != (len(chosen), len(chosen) * (len(chosen) - 1) // 2):
        raise RuntimeError(f"the pass covered {count:.0f} of {len(chosen)} samples, not each of them once")


class PerSampleRows:
    """Collects float64 [samples, columns] on each rank, and gathers them in the order of the samples."""

    def __init__(self, world: World, samples: int) -> None:
        self._world, self._samples = world, samples
        self._places, self._rows = list[Indices](), list[Tensor]()

    def add(self, places: Indices, rows: Tensor) -> None:
        """Add the rows of some samples; filler adds no rows, but the number of columns."""
        self._places.append(places)
        self._rows.append(rows[: len(places)].double().cpu())

    def on_first(self, columns: int | None = None) -> Values | None:
        """All rows on rank 0, None on the others. Raises RuntimeError unless each sample occurs once.

        columns: number of columns, needed if a rank may have added nothing
        """
        places, rows = self._together(columns)
        numbered = torch.cat([torch.from_numpy(places).double()[:, None], rows], dim=1)  # exact up to 2⁵³
        parts = self._world.on_first(numbered)
        if parts is None:
            return None
        found = torch.cat(parts).numpy()
        return in_order(found[:, 0].astype(np.int64), found[:, 1:], self._samples)

    def on_all(self, columns: int) -> Tensor:
        """All rows on every rank."""
        places, rows = self._together(columns)
        own = torch.zeros((self._samples, columns), dtype=torch.float64)
        own[places] = rows
        return self._world.sum_over_data(own) if columns else own  # each sample is on one rank and zero on all others

    def _together(self, columns: int | None) -> tuple[Indices, Tensor]:
        if not self._places:
            return np.empty(0, dtype=np.int64), torch.empty((0, columns or 0), dtype=torch.float64)
        return np.concatenate(self._places), torch.cat(self._rows)


def batches_of_rank(
    lengths: NDArray[np.int32], batch_size: int, world: World, *, one_length: bool = False
) -> Iterator[Indices]:
    """The samples of each of this rank's batches; all ranks have the same number of batches, some empty.

    Batches have samples of similar length, and at most as many tokens as `batch_size` of the longest. They are
    assigned in turns, largest first, every second turn in reverse, so that the ranks finish together.
    one_length: whether all samples of a batch must have the same length
    """
    order = np.argsort(-lengths, kind="stable")
    cuts = cut(lengths[order], batch_size * int(lengths.max(initial=1)), one_length=one_length)
    batches = [order[first:last] for first, last in pairwise(cuts)]
    ranks, rank = world.data_size, world.data_rank
    turns = -(-len(batches) // ranks)
    for turn in range(turns):
        seat = rank if turn % 2 == 0 else ranks - 1 - rank
        number = turn * ranks + seat
        yield batches[number] if number < len(batches) else np.empty(0, dtype=np.int64)


def _batch_of(data: Prepared | Pool, ids: Indices, collate: Collate) -> Batch:
    """A batch of samples of `data`; without samples the shortest one as filler, which fits any model."""
    if len(ids):
        return collate(data[ids], ids.tolist())
    shortest = int(data.lengths.argmin())
    return collate(data[[shortest]], [shortest]).as_filler()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the module's mode is restored."""
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():  # tensors that a sharded model gathers in inference mode could not be trained
            yield
    finally:
        module.train(was_training)
