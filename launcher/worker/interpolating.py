"""Going back part of the way from the end of training to its start (WiSE-FT, arXiv:2109.01903)."""

from __future__ import annotations

from math import inf

from launcher.engines.base import Engine
from launcher.worker.evaluating import evaluate
from launcher.worker.materials import Materials
from launcher.worker.progress import goodness_of
from launcher.worker.selecting import TargetSelector, deciding_value_of
from launcher.worker.session import Session

GRID = tuple(step / 10 for step in range(11))


def interpolate(session: Session, materials: Materials, engine: Engine, selector: TargetSelector | None) -> None:
    """Leave (1 − a)·start + a·end in the engine: the job's a, or that of the grid which validation finds best.

    Of equals the smaller is taken, the one nearer to the start.
    selector: of a job that chooses for a target without labels
    """
    job, share = session.job, session.job.adapt.interpolate
    metric, best = job.validation.metric, -inf
    if share is None:
        return
    if share == "auto":
        share, values = 0.0, dict[float, float]()
        for tried in GRID:
            engine.mix(tried)
            values[tried] = _deciding_value(session, materials, engine, selector)
            if goodness_of(job, values[tried]) > best:
                share, best = tried, goodness_of(job, values[tried])
        told = f"{metric} {values[share]:.4f}; {values[0.0]:.4f} at the start, {values[1.0]:.4f} at the end"
        session.log.note(f"interpolated: {share:g} of the way from start to end ({told})")
    engine.mix(share)


def _deciding_value(session: Session, materials: Materials, engine: Engine, selector: TargetSelector | None) -> float:
    job, name = session.job, session.job.deciding_set
    assert name is not None
    session.enter("evaluating", name)
    found = evaluate(
        engine.module,
        materials.task,
        materials.validation[name],
        session.world,
        batch_size=session.plan.evaluation_batch,
        precision=session.plan.precision,
        keep_outcomes=selector is not None,
    )
    return deciding_value_of(found, job, selector)
