"""The weights of the result: those of the best step, or the last ones; or their average if one is kept."""

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
    """The step whose weights become the result.

    step: the step of the weights
    lost: why the last weights are used although those of another step were best; None otherwise
    """

    step: int
    lost: str | None = None


def choose_weights(context: RunContext, setup: TrainSetup, progress: Progress) -> Chosen:
    """Load the weights that become the result into the engine."""
    chosen = Chosen(progress.step)
    if context.job.checkpoint.result != "last" and progress.best_step not in (None, progress.step):
        chosen = _take_best(context, setup, progress)
    setup.options.swap_result(chosen.step)
    return chosen


def _take_best(context: RunContext, setup: TrainSetup, progress: Progress) -> Chosen:
    """Load the weights of the best step; if its checkpoint is damaged or gone, keep the last weights."""
    step = progress.best_step
    assert step is not None
    checkpoint = context.folder.checkpoints / checkpoint_name(step)
    fault = fault_of(checkpoint, context.world.heartbeat)
    if fault is not None:
        lost = f"the checkpoint of step {step}, which was best, cannot be used: {fault}"
        context.log.note(f"{lost}; using the last model, of step {progress.step}")
        return Chosen(progress.step, lost)
    context.log.note(f"the best model was that of step {step}; using it")
    has_copies = setup.is_averaged(step) or context.job.adapt.interpolate is not None
    setup.load(read_state(checkpoint, setup.state(), optimizer=has_copies))
    return Chosen(step)
