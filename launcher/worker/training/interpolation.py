"""Interpolate between the initial and the final weights (WiSE-FT, arXiv:2109.01903)."""

from __future__ import annotations

from math import inf

from launcher.engines.base import Engine
from launcher.worker.data.inputs import Inputs
from launcher.worker.evaluation.checkpoint_selection import CheckpointSelector, deciding_value_of
from launcher.worker.evaluation.evaluate import evaluate
from launcher.worker.rank.run_context import RunContext
from launcher.worker.training.progress import goodness_of
from launcher.worker.training.setup import TrainSetup

GRID = tuple(step / 10 for step in range(11))


def interpolate(context: RunContext, inputs: Inputs, built: TrainSetup, selector: CheckpointSelector | None) -> None:
    """Set the engine's weights to (1 − a)·start + a·end, with the job's a, or the best a of a grid in validation.

    Among equal ones the smallest a is used, which is closest to the start.
    selector: for a job that selects for a target without labels
    """
    job, share = context.job, context.job.adapt.interpolate
    metric, best = job.validation.metric, -inf
    if share is None:
        return
    if share == "auto":
        share, values = 0.0, dict[float, float]()
        for tried in GRID:
            built.options.mix(tried)
            values[tried] = _deciding_value(context, inputs, built.engine, selector)
            if goodness_of(job, values[tried]) > best:
                share, best = tried, goodness_of(job, values[tried])
        metrics = f"{metric} {values[share]:.4f}; {values[0.0]:.4f} at the start, {values[1.0]:.4f} at the end"
        context.log.note(f"interpolated: {share:g} of the way from start to end ({metrics})")
    built.options.mix(share)


def _deciding_value(context: RunContext, inputs: Inputs, engine: Engine, selector: CheckpointSelector | None) -> float:
    job, name = context.job, context.job.deciding_set
    assert name is not None
    context.enter("evaluating", name)
    found = evaluate(
        engine.module,
        inputs.task,
        inputs.validation[name],
        context.world,
        batch_size=context.plan.evaluation_batch,
        precision=context.plan.precision,
        keep_outcomes=selector is not None,
    )
    return deciding_value_of(found, job, selector)
