"""The learning rate range test (Smith 2017, arXiv:1506.01186): one step at each of geometrically increasing rates.

The steps are those of training: the same global batches on the same engine.
"""

from __future__ import annotations

from pathlib import Path

from launcher.errors import NotFinite
from launcher.job.requests import LrRangeAnswer, LrRangePoint, LrRangeRequest
from launcher.run.events import Event, Step
from launcher.worker.data.inputs import open_inputs
from launcher.worker.rank.preemption import StopRequest
from launcher.worker.rank.process import RankProcess
from launcher.worker.rank.run_context import RunContext, joined_run
from launcher.worker.training.loop import Hooks, Loop
from launcher.worker.training.progress import Progress
from launcher.worker.training.setup import build

STEPS, LOWEST, HIGHEST = 100, 1e-7, 1.0
SMOOTHING = 0.9
"""Decay of the smoothed loss per step."""
DIVERGED = 4.0
"""The test ends when the smoothed loss exceeds its minimum by this factor."""
BELOW = 10.0
"""The suggestion is the rate of the minimum smoothed loss divided by this."""


class RangeTestLoop(Loop):
    """The training loop with rates that increase geometrically from the lowest to the highest."""

    def rate(self, step: int) -> float:
        """Instead of the job's schedule."""
        return LOWEST * (HIGHEST / LOWEST) ** ((step - self.feed.stages.epochs_since) / (STEPS - 1))


def serve(process: RankProcess, request: LrRangeRequest) -> LrRangeAnswer:
    """Join the world of the planned job and take the steps."""
    with joined_run(process, Path(request.folder), (), "never") as context:
        points = sweep(context)
        context.world.wait()
    found = suggestion(points)
    return LrRangeAnswer(points=tuple(points), suggestion=found, verdict=verdict(points, found))


def sweep(context: RunContext) -> list[LrRangePoint]:
    """Take the steps; returns the point of each, on all ranks."""
    built = build(context, open_inputs(context), 0)
    taken: list[Step] = []

    def note(event: Event) -> None:
        if isinstance(event, Step):
            taken.append(event)

    nothing = Hooks(note, lambda _: 0.0, lambda: None, lambda: False, lambda: None)
    loop = RangeTestLoop(
        context.job,
        context.plan.split,
        context.plan.precision,
        context.world,
        built.engine,
        built.options,
        built.feed,
        built.learner,
        Progress(step=built.feed.stages.epochs_since),
        nothing,
        StopRequest(),
    )
    context.enter("training")
    points: list[LrRangePoint] = []
    while len(points) < STEPS and not has_diverged(points):
        try:
            loop.step()
        except NotFinite:
            break
        if len(taken) == len(points):  # skipped: the rate is too high
            break
        points = smoothed([(step.lr, step.loss) for step in taken])
    return points


def smoothed(steps: list[tuple[float, float]]) -> list[LrRangePoint]:
    """The points, with smoothed losses, of (rate, loss) pairs."""
    points, average = [], 0.0
    for number, (lr, loss) in enumerate(steps, 1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        points.append(LrRangePoint(lr, loss, average / (1 - SMOOTHING**number)))
    return points


def has_diverged(points: list[LrRangePoint]) -> bool:
    """Whether the last point is far above the minimum."""
    return bool(points) and points[-1].smoothed > DIVERGED * min(point.smoothed for point in points)


def suggestion(points: list[LrRangePoint]) -> float | None:
    """A tenth of the rate with the minimum smoothed loss; None if the loss never fell."""
    if not points:
        return None
    lowest = min(points, key=lambda point: point.smoothed)
    return lowest.lr / BELOW if lowest.smoothed < points[0].smoothed else None


def verdict(points: list[LrRangePoint], found: float | None) -> str:
    """The suggestion and its rule, as text."""
    if found is None:
        return "the loss did not fall at any learning rate; check the data and the labels first"
    lowest = min(points, key=lambda point: point.smoothed)
    return (
        f"suggestion: train.optimizer.lr: {found:.1e}, a tenth of {lowest.lr:.1e}, where the smoothed loss is least "
        f"({lowest.smoothed:.4f}) in {len(points)} steps"
    )
