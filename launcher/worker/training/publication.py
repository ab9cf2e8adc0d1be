"""Publish the result as a model folder, as adapters, or as both, with model cards and the link to the latest run."""

from __future__ import annotations

from pathlib import Path

from launcher.checkpoint.merging import merge_adapters
from launcher.checkpoint.model_folder import fault_of_skeleton, publish_model
from launcher.errors import ModelError
from launcher.run.results import Result
from launcher.worker.data.inputs import Inputs
from launcher.worker.rank.run_context import RunContext
from launcher.worker.training.model_card import write_model_card
from launcher.worker.training.setup import TrainSetup


def publish(context: RunContext, setup: TrainSetup) -> Path:
    """Write the result: the whole model or the adapters; or both, if adapters are to be merged.

    Returns its folder: that of the adapters if the base for merging is gone.
    """
    context.enter("publishing", str(context.folder.model))
    context.fence.check()
    job, folder, engine = context.job, context.folder, setup.engine
    if context.world.is_first and (fault := fault_of_skeleton(folder.skeleton)) is not None:
        context.log.note(f"{folder.skeleton} was damaged, and has been written again: {fault}")
        setup.write_skeleton()
    if job.adapt.adapters is not None and job.adapt.adapters.is_merged:
        publish_model(folder.adapter, folder.skeleton, engine, "fp32")
        try:
            merge_adapters(folder.adapter, folder.model, job.checkpoint.dtype, job.model.trust_code)
        except ModelError as error:  # all ranks raise it
            way = f"adaptrun consolidate {folder.adapter} -o {folder.model}"
            context.log.note(
                f"the adapters could not be merged: {error}; to merge them once the base is available again: {way}"
            )
            return folder.adapter
    else:
        publish_model(folder.model, folder.skeleton, engine, job.checkpoint.dtype)
    return folder.model


def leave_model_cards(context: RunContext, inputs: Inputs, result: Result) -> None:
    """Write the model cards; if they cannot be written, the run is still finished."""
    for folder in (context.folder.model, context.folder.adapter):
        if folder.is_dir():
            try:
                write_model_card(folder, context.job, result, inputs.task.labels)
            except OSError as error:
                context.log.note(f"the model card could not be written: {error}")


def become_latest(context: RunContext) -> None:
    """Create the link to the latest run; a file system without links does not fail the run."""
    try:
        context.folder.become_latest(context.job)
    except OSError as error:
        context.log.note(f"the link runs/{context.job.name} to this run could not be created: {error}")
