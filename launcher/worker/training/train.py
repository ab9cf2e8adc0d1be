"""Train all stages of a run, with validation, schedules and saving."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from launcher.checkpoint.saving import Checkpoints
from launcher.errors import NotFinite, Stopped
from launcher.measure.compare.per_sample_results import Values
from launcher.run.checkpoints import checkpoint_name
from launcher.run.events import Saved, Started
from launcher.run.folder import write_whole
from launcher.worker.data.inputs import Inputs
from launcher.worker.evaluation.validation import BEFORE, Validator
from launcher.worker.rank.preemption import StopRequest
from launcher.worker.rank.run_context import RunContext
from launcher.worker.training.checkpoint_integrity import insist_on_soundness
from launcher.worker.training.conclusion import conclude
from launcher.worker.training.loop import Hooks, Loop
from launcher.worker.training.progress import Progress
from launcher.worker.training.restoring import restore
from launcher.worker.training.setup import TrainSetup, build


def train(
    context: RunContext, inputs: Inputs, progress: Progress, stop: StopRequest, weights: dict[str, Values]
) -> tuple[TrainSetup, Validator]:
    """Train all stages, with one engine per set of trained parameters; returns the last one and its validator.

    weights: of a validation set's samples, shared by the validators of all engines
    Raises Stopped when asked to stop before the end.
    """
    checkpoints, reached = _checkpoints(context, stop), context.checkpoint
    while True:
        setup = build(context, inputs, progress.step)
        restore(context, setup, progress, reached)
        validator = Validator.of(context, inputs, setup.engine.module, weights)
        if not progress.before:
            progress.before = validator.measure(progress.step)
            validator.keep_outcomes(progress.step, BEFORE)
        reached = _train_span(context, setup, progress, validator, checkpoints, stop)
        if reached is None:
            return setup, validator
        insist_on_soundness(context, reached)
        del setup, validator
        gc.collect()  # free the memory for the next engine


def _train_span(
    context: RunContext,
    setup: TrainSetup,
    progress: Progress,
    validator: Validator,
    checkpoints: Checkpoints,
    stop: StopRequest,
) -> Path | None:
    """Train the stages of one engine.

    Returns the checkpoint from which the next engine resumes, None at the run's end.
    """
    loop = Loop(
        context.job,
        context.plan.split,
        context.plan.precision,
        context.world,
        setup.engine,
        setup.options,
        setup.feed,
        setup.learner,
        progress,
        _hooks(context, setup, progress, validator, checkpoints),
        stop,
        until=setup.span.end,
    )
    _begin(context, setup, progress)
    with stop.deferred(), _discarded_kept(context, loop):
        if loop.train():
            return None if loop.is_over() else checkpoints.at(progress.step)
        if context.world.is_first:
            conclude(context, progress, "stopped", after={})
        context.world.wait()
    raise Stopped(
        f"stopped after step {progress.step} of {loop.total_steps}; a checkpoint is saved, and the same "
        "command resumes from there"
    )


def _hooks(
    context: RunContext, setup: TrainSetup, progress: Progress, validator: Validator, checkpoints: Checkpoints
) -> Hooks:
    """The loop's callbacks, which also log the current phase."""

    def save() -> None:
        context.enter("saving", checkpoint_name(progress.step))
        checkpoints.save(progress.step, setup.state(), progress.as_dict(), progress.best_step)
        context.enter("training")

    def finish_saving() -> None:
        context.enter("saving")
        checkpoints.wait()

    def evaluate(before_batch: Callable[[], None]) -> float:
        with setup.result_weights(progress.step):
            validator.forget_outcomes(progress.best_step)
            value = validator.deciding_value(progress.step, before_batch)
        context.enter("training")
        return value

    return Hooks(context.log.write, evaluate, save, checkpoints.has_failed, finish_saving)


def _begin(context: RunContext, setup: TrainSetup, progress: Progress) -> None:
    """Log that training begins, and at which step."""
    context.enter("training")
    if context.plan.evaluations:
        context.log.note(f"validation: {context.plan.evaluations}")
    context.log.write(
        Started(
            step=progress.step,
            total_steps=setup.feed.total_steps,
            steps_per_epoch=setup.feed.steps_per_epoch,
            epochs=context.job.train.epochs,
            processes=context.world.size,
            counted_in=setup.feed.task.counted_in,
        )
    )


def _checkpoints(context: RunContext, stop: StopRequest) -> Checkpoints:
    """The run's checkpoints; each is reported when it is complete."""

    def saved(step: int, path: Path, seconds: float) -> None:
        stop.saving_took(seconds)
        context.log.write(Saved(step=step, path=str(path), seconds=seconds))

    return Checkpoints(
        context.folder.checkpoints,
        context.job.checkpoint.keep,
        in_background=context.job.checkpoint.in_background,
        on_saved=saved,
        start=context.start.count,
        before_completing=context.fence.check,
    )


@contextmanager
def _discarded_kept(context: RunContext, loop: Loop) -> Iterator[None]:
    """If training fails with too many skipped steps, write the samples of each."""
    try:
        yield
    except NotFinite:
        if context.world.is_first:
            write_whole(
                context.folder.discarded_file, json.dumps([asdict(event) for event in loop.discarded], indent=2)
            )
        raise
