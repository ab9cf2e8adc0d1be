"""The learning-rate range test (Smith 2017, arXiv:1506.01186): a step each at rates that grow by one factor.

The steps are those of training on the task: the same global batches on the same engine, whose loss all ranks share.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from launcher.errors import NotFinite
from launcher.run.events import Event, Step
from launcher.run.folder import write_whole
from launcher.worker.data.inputs import open_inputs
from launcher.worker.rank.preemption import StopRequest
from launcher.worker.rank.run_context import RunContext
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


class Point(NamedTuple):
    """A step: its rate, its loss, and the moving average of the losses so far, without the bias of its beginning."""

    lr: float
    loss: float
    smoothed: float


class RangeTestLoop(Loop):
    """The training loop at rates that grow from the lowest to the highest, by the same factor at each step."""

    def rate(self, step: int) -> float:
        """Instead of the job's schedule."""
        return LOWEST * (HIGHEST / LOWEST) ** ((step - self.feed.stages.epochs_since) / (STEPS - 1))


def sweep(context: RunContext) -> None:
    """Take the steps; rank 0 writes the points and the suggestion."""
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
    points: list[Point] = []
    while len(points) < STEPS and not has_diverged(points):
        try:
            loop.step()
        except NotFinite:
            break
        if len(taken) == len(points):  # discarded: the rate is past all use
            break
        points = smoothed([(step.lr, step.loss) for step in taken])
    if context.world.is_first:
        found = suggestion(points)
        answer = {"points": points, "suggestion": found, "verdict": verdict(points, found)}
        write_whole(context.folder.result_file, json.dumps(answer))
    context.world.wait()


def smoothed(steps: list[tuple[float, float]]) -> list[Point]:
    """The points of some rates and losses."""
    points, average = [], 0.0
    for number, (lr, loss) in enumerate(steps, 1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        points.append(Point(lr, loss, average / (1 - SMOOTHING**number)))
    return points


def has_diverged(points: list[Point]) -> bool:
    """Whether the last point is far above the lowest."""
    return bool(points) and points[-1].smoothed > DIVERGED * min(point.smoothed for point in points)


def suggestion(points: list[Point]) -> float | None:
    """A tenth of the rate at which the smoothed loss is least; None where it never fell."""
    if not points:
        return None
    lowest = min(points, key=lambda point: point.smoothed)
    return lowest.lr / BELOW if lowest.smoothed < points[0].smoothed else None


def verdict(points: list[Point], found: float | None) -> str:
    """The suggestion and the rule it follows."""
    if found is None:
        return "the loss did not fall at any rate; look at the data and the labels first"
    lowest = min(points, key=lambda point: point.smoothed)
    return (
        f"suggestion: train.optimizer.lr: {found:.1e}, a tenth of {lowest.lr:.1e}, where the smoothed loss is least "
        f"({lowest.smoothed:.4f}) in {len(points)} steps"
    )
