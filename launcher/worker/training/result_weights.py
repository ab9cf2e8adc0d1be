"""Whose weights become the result: those of the best step, or the last ones; and their average where one is kept."""

from __future__ import annotations

from dataclasses import dataclass

from launcher.checkpoint.hashing import fault_of
from launcher.checkpoint.reading import read_state
from launcher.run.checkpoints import checkpoint_name
from launcher.worker.rank.run_context import RunContext
from launcher.worker.training.progress import Progress
from launcher.worker.training.setup import TrainSetup


@dataclass(frozen=True)
class Chosen:
    """Whose weights become the result.

    step: that they are of
    lost: why they are the last ones, where those of a better step were chosen and cannot be had; None elsewhere
    """

    step: int
    lost: str | None = None


def choose_weights(context: RunContext, setup: TrainSetup, progress: Progress) -> Chosen:
    """Leave the weights that become the result in the engine."""
    chosen = Chosen(progress.step)
    if context.job.checkpoint.result != "last" and progress.best_step not in (None, progress.step):
        chosen = _take_best(context, setup, progress)
    setup.options.swap_result(chosen.step)
    return chosen


def _take_best(context: RunContext, setup: TrainSetup, progress: Progress) -> Chosen:
    """The weights of the best step, from its checkpoint; that one is damaged or gone costs the choice, not the run."""
    step = progress.best_step
    assert step is not None
    checkpoint = context.folder.checkpoints / checkpoint_name(step)
    fault = fault_of(checkpoint, context.world.heartbeat)
    if fault is not None:
        lost = f"the checkpoint of step {step}, which was best, cannot be taken: {fault}"
        context.log.note(f"{lost}; the last model, of step {progress.step}, is taken")
        return Chosen(progress.step, lost)
    context.log.note(f"the best model was that of step {step}; taking it")
    has_copies = setup.is_averaged(step) or context.job.adapt.interpolate is not None
    setup.load(read_state(checkpoint, setup.state(), optimizer=has_copies))
    return Chosen(step)
