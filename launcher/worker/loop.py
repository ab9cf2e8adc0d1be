"""The training loop: train → step → accumulate, each on a screen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite

import torch

from launcher.data.prepared import Prepared
from launcher.engines.base import Engine
from launcher.errors import OutOfMemory, RunFailed
from launcher.job.schema import Job
from launcher.models.base import Task
from launcher.models.batch import Batch
from launcher.plan.plan import total_steps
from launcher.plan.split import Split
from launcher.run.events import Event, Step
from launcher.worker.dealing import deal
from launcher.worker.memory import memory_in_use
from launcher.worker.order import SampleOrder
from launcher.worker.progress import Progress
from launcher.worker.schedule import LearningRate
from launcher.worker.stopping import StopRequest
from launcher.worker.world import World


@dataclass(frozen=True)
class Hooks:
    """What the loop calls and does not know: where events go, how to evaluate, how to save.

    evaluate: gives the deciding metric's value
    save: begins to save; may return before the checkpoint is complete
    save_has_failed: on this rank, without waiting
    finish_saving: returns when the checkpoint is complete, or raises what went wrong, on all ranks
    """

    write: Callable[[Event], None]
    evaluate: Callable[[], float]
    save: Callable[[], None]
    save_has_failed: Callable[[], bool]
    finish_saving: Callable[[], None]


@dataclass(frozen=True)
class Votes:
    """What the ranks agreed on while they summed the weights of a step."""

    weight: float
    stop: bool
    save: bool


@dataclass
class Loop:
    """Trains from where `progress` stands to the end, or until a rank is asked to stop."""

    job: Job
    split: Split
    world: World
    engine: Engine
    task: Task
    data: Prepared
    progress: Progress
    hooks: Hooks
    stop: StopRequest
    _saved_at: float = field(default_factory=time.monotonic)

    @cached_property
    def order(self) -> SampleOrder:
        """Which samples each step trains on."""
        return SampleOrder(len(self.data), self.split.global_batch, self.job.train.seed)

    @cached_property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run unless it stops early."""
        train = self.job.train
        return total_steps(len(self.data), self.split.global_batch, train.epochs, train.max_steps)

    @cached_property
    def learning_rate(self) -> LearningRate:
        """The schedule over those steps."""
        return LearningRate(self.job.train.schedule, self.job.train.optimizer.lr, self.total_steps)

    def train(self) -> bool:
        """Take the steps that are left. Returns False when stopped on request before the end."""
        progress = self.progress
        while progress.step < self.total_steps and not progress.finished:
            votes = self.step()
            save = votes.save or votes.stop or self._save_is_due()
            if self._evaluation_is_due():
                save |= progress.judge(self.job, self.hooks.evaluate())
            done = progress.step == self.total_steps or progress.finished
            if save or done:
                self.hooks.save()
                self._saved_at = time.monotonic()
            if votes.stop and not done:
                self.hooks.finish_saving()
                return False
        self.hooks.finish_saving()
        return True

    def step(self) -> Votes:
        """One optimizer step over one global batch."""
        begun = time.perf_counter()
        step, seed = self.progress.step, self.job.train.seed
        torch.manual_seed(dropout_seed(seed, step, self.world.rank))
        samples = self.order.batch(step)
        lengths = self.data.lengths[samples]
        hand = deal(samples, lengths, self.split.ranks, self.split.accumulation)[self.world.rank]
        batches = [self.task.collate(self.data[mine], mine.tolist()) for mine in hand]
        votes = self._vote(batches)
        with _out_of_memory_named(self.split.micro_batch, step):
            loss, memory = self._accumulate(batches, votes.weight)
        if not isfinite(loss):
            raise RunFailed(
                f"the loss of step {step + 1} is {loss}; its samples were rows {samples.tolist()} of the "
                "training data, counted from 0. Lower train.optimizer.lr, add warm-up, or use precision fp32"
            )
        lr = self.learning_rate.at(step, self.progress.plateau)
        with _out_of_memory_named(self.split.micro_batch, step):
            norm = self.engine.step(lr)
        seconds = time.perf_counter() - begun
        self.progress.step += 1
        self.progress.seconds += seconds
        self.hooks.write(
            Step(
                step=step + 1,
                epoch=step // self.order.steps_per_epoch,
                loss=loss,
                lr=lr,
                gradient_norm=norm,
                samples=len(samples),
                tokens=int(lengths.sum()),
                seconds=seconds,
                memory=memory,
            )
        )
        return votes

    def _vote(self, batches: Sequence[Batch]) -> Votes:
        """The one collective before the backward pass: the loss's denominator, and what ranks ask for."""
        weight = sum(batch.weight for batch in batches)
        failed = self.hooks.save_has_failed()
        asked = [weight, self.stop.asked, self._minutes_have_passed(), failed]
        weight, stop, save, failed = self.world.sum(asked).tolist()
        if failed:
            self.hooks.finish_saving()
        return Votes(weight, stop > 0, save > 0)

    def _accumulate(self, batches: Sequence[Batch], weight: float) -> tuple[float, int]:
        """Forward and backward of each micro-batch: the global batch's loss, and the largest memory."""
        total = 0.0
        for number, batch in enumerate(batches):
            losses = self.engine.accumulate(batch, 1.0 / weight, last=number == len(batches) - 1)
            total += float(losses.weighted.detach().sum(dtype=torch.float64))
        memory = [0.0] * self.world.size
        memory[self.world.rank] = memory_in_use(self.world.device)
        total, *memory = self.world.sum([total, *memory]).tolist()
        return total / weight, int(max(memory))

    def _evaluation_is_due(self) -> bool:
        if self.job.deciding_set is None:
            return False
        every = self.job.validation.every
        return self._is_due(None if every == "epoch" else every) or self.progress.step == self.total_steps

    def _save_is_due(self) -> bool:
        return self._is_due(self.job.checkpoint.every_steps)

    def _is_due(self, every: int | None) -> bool:
        """Whether the steps done are a multiple of `every`, or of an epoch where that is None."""
        return self.progress.step % (every or self.order.steps_per_epoch) == 0

    def _minutes_have_passed(self) -> bool:
        """Only rank 0's clock counts, and its vote carries the others."""
        minutes = self.job.checkpoint.every_minutes
        return minutes is not None and self.world.is_first and time.monotonic() - self._saved_at >= 60 * minutes


@contextmanager
def _out_of_memory_named(micro_batch: int, step: int) -> Iterator[None]:
    """Let the launcher know that it was memory that failed: the allocators say so in several ways."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "can't allocate memory" not in str(error):
            raise
        raise OutOfMemory(f"step {step + 1} did not fit with micro-batches of {micro_batch}: {error}") from error


def dropout_seed(seed: int, step: int, rank: int) -> int:
    """A generator's state that depends on the step alone, so that a resumed run draws what the other drew."""
    return (seed * 1_000_003 + step) * 65_536 + rank
