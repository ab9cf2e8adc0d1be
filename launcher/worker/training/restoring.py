"""Where a run stands when it starts: at its beginning, or where a checkpoint stood."""

from __future__ import annotations

from pathlib import Path

from launcher.checkpoint.reading import read_progress, read_state
from launcher.errors import RequestError
from launcher.worker.data.inputs import Inputs
from launcher.worker.data.train_data import TrainData
from launcher.worker.rank.run_context import RunContext
from launcher.worker.training.progress import Progress
from launcher.worker.training.setup import TrainSetup


def remembered_progress(context: RunContext, inputs: Inputs) -> Progress:
    """Where the run stands. Raises RequestError where the data are no longer the same."""
    data = TrainData.of(context.job, inputs, None).pool.name
    if context.checkpoint is None:
        return Progress(data=data)
    context.enter("loading", str(context.checkpoint))
    progress = Progress.from_dict(read_progress(context.checkpoint))
    if progress.data != data:
        raise RequestError(
            f"the training data (or the tokenizer) have changed since {context.checkpoint} was saved, or another "
            "version of adaptrun prepared them; put back what was there, or start a new run with --resume never"
        )
    return progress


def restore(context: RunContext, setup: TrainSetup, progress: Progress, checkpoint: Path | None) -> None:
    """Take over the state of a checkpoint; without one, note which weights the run begins with.

    Raises RequestError where the weights that the checkpoint leaves out are no longer the same.
    """
    progress.micro_batch_limit = context.plan.micro_batch_limit
    if setup.feed.method is not None:
        setup.feed.method.state = progress.method
    if checkpoint is None:
        progress.base = setup.base
        return
    if progress.base != setup.base:
        adapters = context.job.adapt.adapters
        is_beside = adapters is not None and adapters.adds_weights
        tie = "the adapters in {} were trained with" if is_beside else "the run of {} began with"
        raise RequestError(
            f"{context.job.model.pretrained} is no longer the model that {tie.format(checkpoint)}; put that one back, "
            "or start a new run with --resume never"
        )
    setup.load(read_state(checkpoint, setup.state()))
