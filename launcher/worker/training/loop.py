"""The training loop: train → step → accumulate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isfinite

import numpy as np
import torch
from numpy.typing import NDArray

from launcher.adapt.options.weight_options import WeightOptions
from launcher.engines.base import Engine
from launcher.errors import NotFinite, OutOfMemory
from launcher.job.schema import Job
from launcher.models.parts.batch import Batch
from launcher.plan.split import Split
from launcher.run.events import Discarded, Event, Note, Step
from launcher.worker.data.micro_batching import Deal, deal, deal_by_length, deal_packed
from launcher.worker.data.train_data import TrainData
from launcher.worker.rank.memory import memory_in_use
from launcher.worker.rank.preemption import StopAgreed, StopRequest
from launcher.worker.rank.world import World
from launcher.worker.training import objective as learning
from launcher.worker.training.objective import Objective
from launcher.worker.training.progress import Progress


@dataclass(frozen=True)
class Hooks:
    """Callbacks of the loop: to write events, evaluate and save.

    evaluate: returns the deciding metric; calls its argument before each batch, equally often on all ranks
    save: starts a save; may return before the checkpoint is complete
    save_has_failed: whether a save has failed on this rank, without waiting
    finish_saving: returns when the checkpoint is complete, or raises its error, on all ranks
    """

    write: Callable[[Event], None]
    evaluate: Callable[[Callable[[], None]], float]
    save: Callable[[], None]
    save_has_failed: Callable[[], bool]
    finish_saving: Callable[[], None]


@dataclass(frozen=True)
class Votes:
    """What the ranks agreed on in the all-reduce of a step's weights."""

    weights: tuple[float, ...]
    stop: bool
    save: bool


NOTHING = Votes((), stop=False, save=False)


@dataclass
class Loop:
    """Trains from the step in `progress` to the end, or until a rank is asked to stop.

    until: the step up to which this engine trains; None for the run's end
    discarded: the most recent consecutive skipped steps
    """

    job: Job
    split: Split
    precision: str
    world: World
    engine: Engine
    options: WeightOptions
    feed: TrainData
    learner: Objective
    progress: Progress
    hooks: Hooks
    stop: StopRequest
    until: int | None = None
    discarded: list[Discarded] = field(default_factory=list)
    _saved_at: float = field(default_factory=time.monotonic)
    _saved_step: int = field(init=False)

    def __post_init__(self) -> None:
        self._saved_step = self.progress.step  # the state at the beginning needs no save

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run unless it stops early."""
        return self.feed.total_steps

    @property
    def scales_the_loss(self) -> bool:
        """Whether the loss is scaled (fp16): a NaN or infinite gradient then only means that the scale is too large."""
        return self.precision == "fp16"

    def rate(self, step: int) -> float:
        """The learning rate of step `step` of the run, from 0."""
        stage = self.feed.stages.at(step)
        return stage.rate.at(step, self.progress.plateau if stage.is_validated else 1.0)

    def train(self) -> bool:
        """Take the remaining steps of this engine. Returns False if stopped on request before the run's end."""
        while not self._engine_is_done():
            already_saved = self.progress.awaits_judgement
            try:
                votes = NOTHING if already_saved else self.step()
            except StopAgreed:  # before the step began
                votes, already_saved = Votes((), stop=True, save=False), self._saved_step == self.progress.step
            stop, save = votes.stop, votes.save or self._save_is_due()
            if self.progress.awaits_judgement and not stop:
                stop, is_best = self._judge()
                save |= is_best
            if (save or stop or self._engine_is_done()) and not already_saved:
                self.hooks.save()
                self._saved_at, self._saved_step = time.monotonic(), self.progress.step
            if stop and not self.is_over():
                self.hooks.finish_saving()
                return False
        self.hooks.finish_saving()
        return True

    def is_over(self) -> bool:
        """Whether no step and no evaluation of the whole run is left."""
        progress = self.progress
        return (progress.step >= self.total_steps or progress.finished) and not progress.awaits_judgement

    def _engine_is_done(self) -> bool:
        if self.until is None or self.progress.awaits_judgement:
            return self.is_over()
        return self.progress.step >= self.until or self.is_over()

    def _judge(self) -> tuple[bool, bool]:
        """Validate and adjust. Returns whether the ranks agreed to stop, and whether this is the best so far."""
        try:
            value = self.hooks.evaluate(self._vote_to_stop)
        except StopAgreed:
            return True, False
        self.progress.awaits_judgement = False
        return False, self.progress.judge(self.job, value)

    def step(self) -> Votes:
        """One optimizer step on one global batch. Raises StopAgreed if the ranks agree to stop before it."""
        begun = time.perf_counter()
        step, seed = self.progress.step, self.job.train.seed
        torch.manual_seed(dropout_seed(seed, step, self.world.data_rank))
        samples, moment = self.feed.samples(step), self.feed.moment(step)
        found = self.learner.begin(moment, self._vote_to_stop)
        if found is not None:
            self.hooks.write(Note(text=found))
        lengths = self.feed.pool.lengths[samples]
        own = self._deal(lengths)[self.world.data_rank]
        batches = [self.feed.batch(samples, mine, moment) for mine in own]
        votes = self._vote(batches)
        known = learning.Step(moment, self.feed.sets(samples), lambda: self.world.heartbeat.beat(step + 1))
        with _out_of_memory_named(self.split.micro_batch, step):
            loss, memory, culprit = self._accumulate(batches, votes.weights, known)
        lr = self.rate(step)
        with _out_of_memory_named(self.split.micro_batch, step):
            norm = self.engine.step(lr, discard=not isfinite(loss), before_update=self.options.before_update)
            self.options.after_step(step + 1)
        self.world.heartbeat.beat()
        seconds = time.perf_counter() - begun
        self._count(seconds)
        if not isfinite(loss) or (not isfinite(norm) and not self.scales_the_loss):
            self._discard(loss, norm, samples.tolist(), culprit)
            return votes
        self.progress.discarded_in_a_row = 0
        self.discarded.clear()
        self.hooks.write(
            Step(
                step=step + 1,
                epoch=moment.epoch,
                loss=loss,
                lr=lr,
                gradient_norm=norm,
                samples=len(samples),
                tokens=int(lengths.sum()) if self.feed.task.counted_in == "tokens" else 0,
                seconds=seconds,
                memory=memory,
            )
        )
        return votes

    def _count(self, seconds: float) -> None:
        """Record a step, and what is due after it."""
        self.progress.step += 1
        self.progress.seconds += seconds
        ended = self.learner.must_end()
        if ended is not None:
            self.progress.finished = True
            self.hooks.write(Note(text=ended))
        self.progress.awaits_judgement = self._evaluation_is_due()

    def _deal(self, lengths: NDArray[np.int32]) -> Deal:
        """Assign the positions of the global batch; additional target samples take more micro-batches."""
        split, positions = self.split, np.arange(len(lengths))
        if self.feed.task.packs:
            return deal_packed(positions, lengths, split.ranks, split.micro_batch, self.job.train.max_length)
        if self.feed.task.one_length:
            return deal_by_length(positions, lengths, split.ranks, split.micro_batch)
        turns = max(split.accumulation, -(-len(positions) // (split.ranks * split.micro_batch)))
        return deal(positions, lengths, split.ranks, turns)

    def _discard(self, loss: float, norm: float, samples: list[int], culprit: int | None) -> None:
        """Count a skipped step. Raises NotFinite after too many in a row."""
        step, limit = self.progress.step, self.job.train.discard_limit
        self.progress.discarded += 1
        self.progress.discarded_in_a_row += 1
        event = Discarded(
            step=step,
            loss=loss if isfinite(loss) else None,
            gradient_norm=norm if isfinite(norm) else None,
            samples=tuple(samples),
        )
        self.discarded.append(event)
        self.hooks.write(event)
        found = f"the loss of step {step} is {loss} and its gradient norm {norm}; its samples were rows {samples}"
        if self.progress.discarded_in_a_row > limit:
            before = f"; the {limit} steps before it were skipped too" if limit else ""
            raise NotFinite(f"{found} of the training data, counted from 0{before}", culprit)
        self.hooks.write(Note(text=f"step {step} was skipped: its loss is {loss}, its gradient norm {norm}"))

    def _vote(self, batches: Sequence[Batch]) -> Votes:
        """The one collective before the backward pass: the losses' denominators, and the ranks' requests."""
        failed = self.hooks.save_has_failed()
        asked = [self.stop.asked, self._minutes_have_passed(), failed]
        own = self.world.once(self.learner.weights(batches))
        stop, save, failed, *weights = self.world.sum([*asked, *own]).tolist()
        if failed:
            self.hooks.finish_saving()
        return Votes(tuple(weights), stop > 0, save > 0)

    def _vote_to_stop(self) -> None:
        """A collective only for stop requests, when there is no other. Raises StopAgreed."""
        if self.world.sum([self.stop.asked]).item() > 0:
            raise StopAgreed

    def _accumulate(
        self, batches: Sequence[Batch], weights: Sequence[float], step: learning.Step
    ) -> tuple[float, int, int | None]:
        """Forward and backward of each micro-batch.

        Returns the global batch's loss, the ranks' maximum memory, and the first rank with a NaN or infinite loss.
        """
        total = self.learner.accumulate(batches, weights, step)
        own = torch.zeros(2, self.world.size, dtype=torch.float64)
        own[:, self.world.rank] = torch.tensor([memory_in_use(self.world.device), not isfinite(total)])
        total, *all_ranks = self.world.sum([*self.world.once([total]), *own.flatten().tolist()]).tolist()
        memory, is_bad = all_ranks[: self.world.size], all_ranks[self.world.size :]
        return total, int(max(memory)), is_bad.index(1.0) if any(is_bad) else None

    def _evaluation_is_due(self) -> bool:
        if self.job.deciding_set is None:
            return False
        if not self.feed.stages.at(self.progress.step - 1).is_validated:
            return False
        every = self.job.validation.every
        return self._is_due(None if every == "epoch" else every) or self.progress.step == self.total_steps

    def _save_is_due(self) -> bool:
        return self._is_due(self.job.checkpoint.every_steps)

    def _is_due(self, every: int | None) -> bool:
        """Whether the steps done are a multiple of `every`, or of an epoch if that is None."""
        if every is None:
            return (self.progress.step - self.feed.stages.epochs_since) % self.feed.steps_per_epoch == 0
        return self.progress.step % every == 0

    def _minutes_have_passed(self) -> bool:
        """Whether a save is due by rank 0's clock, whose vote applies to all ranks."""
        minutes = self.job.checkpoint.every_minutes
        return minutes is not None and self.world.is_first and time.monotonic() - self._saved_at >= 60 * minutes


SAID_OF_MEMORY = ("can't allocate memory", "out of memory", "STATUS_ALLOC_FAILED")
"""Out-of-memory messages of allocators, drivers and libraries with their own memory (cuBLAS, cuDNN, NCCL)."""


@contextmanager
def _out_of_memory_named(micro_batch: int, step: int) -> Iterator[None]:
    """Raise OutOfMemory for all out-of-memory errors, since only torch's allocator has its own error type."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        is_named = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not is_named and not any(words in str(error) for words in SAID_OF_MEMORY):
            raise
        raise OutOfMemory(f"step {step + 1} did not fit with micro-batches of {micro_batch}: {error}") from error


def dropout_seed(seed: int, step: int, rank: int) -> int:
    """A seed that depends only on seed, step and rank, so that a resumed run has the same dropout masks."""
    return ((seed * 1_000_003 + step) * 65_536 + rank) % 2**63  # torch's limit
