"""The learning-rate range test (Smith 2017, arXiv:1506.01186): a step each at rates that grow by one factor.

The steps are those of training on the task: the same global batches on the same engine, whose loss all ranks share.
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
"""What is left of the smoothed loss at each step."""
DIVERGED = 4.0
"""The sweep ends where the smoothed loss is so many times its least."""
BELOW = 10.0
"""The suggestion lies so many times below the rate of the least smoothed loss."""


class RangeTestLoop(Loop):
    """The training loop at rates that grow from the lowest to the highest, by the same factor at each step."""

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
    """Take the steps: the point of each, which all ranks know."""
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
        if len(taken) == len(points):  # discarded: the rate is past all use
            break
        points = smoothed([(step.lr, step.loss) for step in taken])
    return points


def smoothed(steps: list[tuple[float, float]]) -> list[LrRangePoint]:
    """The points of some rates and losses."""
    points, average = [], 0.0
    for number, (lr, loss) in enumerate(steps, 1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        points.append(LrRangePoint(lr, loss, average / (1 - SMOOTHING**number)))
    return points


def has_diverged(points: list[LrRangePoint]) -> bool:
    """Whether the last point is far above the lowest."""
    return bool(points) and points[-1].smoothed > DIVERGED * min(point.smoothed for point in points)


def suggestion(points: list[LrRangePoint]) -> float | None:
    """A tenth of the rate at which the smoothed loss is least; None where it never fell."""
    if not points:
        return None
    lowest = min(points, key=lambda point: point.smoothed)
    return lowest.lr / BELOW if lowest.smoothed < points[0].smoothed else None


def verdict(points: list[LrRangePoint], found: float | None) -> str:
    """The suggestion and the rule it follows."""
    if found is None:
        return "the loss did not fall at any rate; look at the data and the labels first"
    lowest = min(points, key=lambda point: point.smoothed)
    return (
        f"suggestion: train.optimizer.lr: {found:.1e}, a tenth of {lowest.lr:.1e}, where the smoothed loss is least "
        f"({lowest.smoothed:.4f}) in {len(points)} steps"
    )
