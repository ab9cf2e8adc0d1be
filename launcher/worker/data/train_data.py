"""The samples of each step, labelled, target or both, and their batches.

The global batch of a step is one list of indices in a pool of all sets, which is split over ranks and micro-batches as
a whole. Every loss is that of the whole global batch, so it does not matter which samples share a micro-batch.
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
"""The target's name in the pool; no training set can have it."""


@dataclass(frozen=True)
class TrainData:
    """The samples of each step, and their batches.

    train: the labelled sets; none for a method that needs no labels
    target: None if the method does not train on it
    method: None if only the task's loss is minimised
    """

    job: Job
    task: Task
    train: Pool
    target: Prepared | None
    method: Method | None

    @classmethod
    def of(cls, job: Job, inputs: Inputs, method: Method | None) -> TrainData:
        """The sets of the inputs that the job's method trains on."""
        target = inputs.target if job.learns_from_target else None
        return cls(job, inputs.task, inputs.train, target, method)

    @cached_property
    def pool(self) -> Pool:
        """All sets, the target last."""
        return self.train if self.target is None else Pool({**self.train.sets, TARGET_SET: self.target})

    @cached_property
    def order(self) -> SampleOrder | MixedOrder:
        """The order of the labelled samples, or of the target if there are none."""
        batch, seed = self.job.train.global_batch_size, self.job.train.seed
        sizes = self.train.sizes or self.pool.sizes
        shares = self._shares(sizes)
        if shares is None:
            return SampleOrder(sum(sizes), batch, seed)
        return MixedOrder(sizes, shares, self.draws, batch, seed)

    @cached_property
    def draws(self) -> int:
        """Samples per epoch."""
        training = [size for name, size in zip(self.pool.sets, self.pool.sizes, strict=True) if name != REHEARSAL]
        return draws_an_epoch(self.job, sum(training[: len(self.job.data.train)] or training))

    def _shares(self, sizes: Sequence[int]) -> list[float] | None:
        """The share of each labelled set; None if each sample occurs once per epoch."""
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
        """Steps per epoch over the labelled samples, or over the target if there are none."""
        return self.order.steps_per_epoch

    @cached_property
    def stages(self) -> StagePlan:
        """The stages of the run, without their trained parameters, which depend on the model."""
        train = self.job.train
        steps = total_steps(self.draws, train.global_batch_size, train.epochs, train.max_steps)
        return plan_stages(self.job, steps, 0 if self.target is None else len(self.target))

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run unless it stops early."""
        return self.stages.total_steps

    @cached_property
    def _target_order(self) -> SampleOrder | CyclicOrder:
        """The order of the target if there are labelled samples too, in a stage before them or alongside."""
        assert self.target is not None
        seed, train = self.job.train.seed + 1, self.job.train
        if self.job.sees_target_alongside:
            return CyclicOrder(len(self.target), target_batch(self.job), seed)
        return SampleOrder(len(self.target), train.global_batch_size, seed)

    def samples(self, step: int) -> Indices:
        """Indices in the pool of the global batch of a step."""
        stage = self.stages.at(step)
        step -= stage.drawn_since
        if stage.samples == "labelled" or not self.train.sets:  # without labelled sets the pool is the target
            return self.order.batch(step)
        target = self.pool.start(TARGET_SET) + self._target_order.batch(step)
        return target if stage.samples == "target" else np.concatenate([self.order.batch(step), target])

    def moment(self, step: int) -> StepInfo:
        """The position of a step in the run."""
        begun = self.stages.epochs_since
        return StepInfo(step, self.total_steps, max(0, step - begun) // self.steps_per_epoch, begun)

    def sets(self, samples: Indices) -> NDArray[np.int64]:
        """Number of the training set of each index, or TARGET."""
        which, _ = self.pool.found(samples)
        return np.where(which == len(self.train.sets), TARGET, which)

    @cached_property
    def _shortest(self) -> int:
        """Index of the shortest sample, on which a rank without samples computes, since it fits any model."""
        return int(self.pool.lengths.argmin())

    def batch(self, samples: Indices, mine: Indices, moment: StepInfo) -> Batch:
        """A part of a step's samples as one batch.

        samples: indices in the pool of the whole global batch
        mine: positions in `samples`, possibly none
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
        numbers = torch.tensor(sets.tolist())
        labelled = (numbers >= 0).view(-1, *[1] * (made.weights.ndim - 1))
        return StepBatch(
            **{name: getattr(made, name) for name in ("inputs", "targets", "ids", "tokens")},
            weights=made.weights * labelled,
            sets=numbers,
            places=torch.tensor(mine.tolist() or [-1]),
            moment=moment,
            extra=extra,
        )
