"""What each step sees: labelled samples, target samples, or both, and how they become batches.

The global batch of a step is one list of places in a pool of all sets, which is dealt to ranks and micro-batches as
one: since every loss is that of the whole global batch, it does not matter which samples share a micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from launcher.adapt.methods.method import FILLER, TARGET, Method, StepBatch, StepInfo
from launcher.data.pool import Pool
from launcher.data.prepared import Prepared
from launcher.job.schema import Job
from launcher.job.sections.methods import REHEARSAL
from launcher.models.parts.batch import Batch
from launcher.models.tasks.base import Task
from launcher.plan.plan import total_steps
from launcher.plan.stages import StagePlan, plan_stages
from launcher.plan.steps import draws_an_epoch, target_batch
from launcher.worker.data.inputs import Inputs
from launcher.worker.data.mixing import CyclicOrder, MixedOrder, shares_of
from launcher.worker.data.order import Indices, SampleOrder

TARGET_SET = "target, unlabelled"
"""Its name in the pool; no training set can have it."""


@dataclass(frozen=True)
class TrainData:
    """Which samples each step sees, and their batches.

    train: the labelled sets; none where the method needs no labels
    target: None where the method does not learn from it
    method: None for the task's loss alone
    """

    job: Job
    task: Task
    train: Pool
    target: Prepared | None
    method: Method | None

    @classmethod
    def of(cls, job: Job, inputs: Inputs, method: Method | None) -> TrainData:
        """Of what lies ready, what the job's method learns from."""
        target = inputs.target if job.learns_from_target else None
        return cls(job, inputs.task, inputs.train, target, method)

    @cached_property
    def pool(self) -> Pool:
        """All sets, the target last."""
        return self.train if self.target is None else Pool({**self.train.sets, TARGET_SET: self.target})

    @cached_property
    def order(self) -> SampleOrder | MixedOrder:
        """Of the labelled samples, or of the target where there are none."""
        batch, seed = self.job.train.global_batch_size, self.job.train.seed
        sizes = self.train.sizes or self.pool.sizes
        shares = self._shares(sizes)
        if shares is None:
            return SampleOrder(sum(sizes), batch, seed)
        return MixedOrder(sizes, shares, self.draws, batch, seed)

    @cached_property
    def draws(self) -> int:
        """Samples of an epoch."""
        training = [size for name, size in zip(self.pool.sets, self.pool.sizes, strict=True) if name != REHEARSAL]
        return draws_an_epoch(self.job, sum(training[: len(self.job.data.train)] or training))

    def _shares(self, sizes: Sequence[int]) -> list[float] | None:
        """How often each labelled set is drawn from; None where each sample is drawn once an epoch."""
        adapt, mixing = self.job.adapt, self.job.data.mixing
        rehearsed = adapt.rehearsed_share
        if not rehearsed and mixing == type(mixing)():
            return None
        names = list(self.job.data.train)
        weights = None if mixing.weights is None else [mixing.weights[name] for name in names]
        shares = [(1 - rehearsed) * share for share in shares_of(sizes[: len(names)], mixing.alpha, weights)]
        return [*shares, rehearsed] if rehearsed else shares

    @property
    def steps_per_epoch(self) -> int:
        """Of the supervised steps, or of those over the target where nothing is labelled."""
        return self.order.steps_per_epoch

    @cached_property
    def stages(self) -> StagePlan:
        """Those of the run, before it is known what learns in each."""
        train = self.job.train
        steps = total_steps(self.draws, train.global_batch_size, train.epochs, train.max_steps)
        return plan_stages(self.job, steps, 0 if self.target is None else len(self.target))

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run unless it stops early."""
        return self.stages.total_steps

    @cached_property
    def _target_order(self) -> SampleOrder | CyclicOrder:
        """Of the target, where labelled samples are drawn too: before them, or alongside."""
        assert self.target is not None
        seed, train = self.job.train.seed + 1, self.job.train
        if self.job.sees_target_alongside:
            return CyclicOrder(len(self.target), target_batch(self.job), seed)
        return SampleOrder(len(self.target), train.global_batch_size, seed)

    def samples(self, step: int) -> Indices:
        """Places in the pool of the global batch of a step."""
        stage = self.stages.at(step)
        step -= stage.drawn_since
        if stage.samples == "labelled" or not self.train.sets:  # without labelled sets the pool is the target
            return self.order.batch(step)
        target = self.pool.start(TARGET_SET) + self._target_order.batch(step)
        return target if stage.samples == "target" else np.concatenate([self.order.batch(step), target])

    def moment(self, step: int) -> StepInfo:
        """Where the run is at a step."""
        begun = self.stages.epochs_since
        return StepInfo(step, self.total_steps, max(0, step - begun) // self.steps_per_epoch, begun)

    def sets(self, samples: Indices) -> NDArray[np.int64]:
        """Number of the training set of each place, or TARGET."""
        which, _ = self.pool.found(samples)
        return np.where(which == len(self.train.sets), TARGET, which)

    @cached_property
    def _shortest(self) -> int:
        """Place in the pool of the sample that a rank without samples computes on, since any model takes it."""
        return int(self.pool.lengths.argmin())

    def batch(self, samples: Indices, mine: Indices, moment: StepInfo) -> Batch:
        """Some of a step's samples as one batch.

        samples: places in the pool of the whole global batch
        mine: positions in `samples`, perhaps none
        """
        is_filler = not len(mine)
        places = samples[mine] if len(mine) else np.array([self._shortest])
        _, ids = self.pool.found(places)
        examples = self.pool[places]
        if self.method is None:
            made = self.task.collate(examples, ids.tolist(), moment.epoch)
            return made.as_filler() if is_filler else made
        sets = np.array([FILLER]) if is_filler else self.sets(places)
        made, extra = self.method.collate(examples, ids.tolist(), sets.tolist(), moment)
        made = made.as_filler() if is_filler else made
        told = torch.tensor(sets.tolist())
        labelled = (told >= 0).view(-1, *[1] * (made.weights.ndim - 1))
        return StepBatch(
            **{name: getattr(made, name) for name in ("inputs", "targets", "ids", "tokens")},
            weights=made.weights * labelled,
            sets=told,
            places=torch.tensor(mine.tolist() or [-1]),
            moment=moment,
            extra=extra,
        )
