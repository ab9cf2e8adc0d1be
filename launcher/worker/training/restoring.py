"""The progress and state at the start of an attempt: initial, or from a checkpoint."""

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
    """The progress of the run. Raises RequestError if the data have changed."""
    data = TrainData.of(context.job, inputs, None).pool.name
    if context.checkpoint is None:
        return Progress(data=data)
    context.enter("loading", str(context.checkpoint))
    progress = Progress.from_dict(read_progress(context.checkpoint))
    if progress.data != data:
        raise RequestError(
            f"the training data or the tokenizer have changed since {context.checkpoint} was saved, or "
            "another version of adaptrun prepared them; restore them, or start a new run with --resume never"
        )
    return progress


def restore(context: RunContext, setup: TrainSetup, progress: Progress, checkpoint: Path | None) -> None:
    """Load the state of a checkpoint; without one, record the identity of the initial weights.

    Raises RequestError if the pretrained weights that the checkpoint does not contain have changed.
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
        tie = "the adapters in {} were trained on" if is_beside else "the run of {} began with"
        raise RequestError(
            f"{context.job.model.pretrained} is no longer the model that {tie.format(checkpoint)}; "
            "restore that model, or start a new run with --resume never"
        )
    setup.load(read_state(checkpoint, setup.state()))
