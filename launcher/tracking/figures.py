"""Events as named figures, each given once."""

from __future__ import annotations

from collections.abc import Mapping

from launcher.run.events import Began, Evaluated, Event, Phase, Step
from launcher.run.flatten import Value
from launcher.run.history import evaluation_figures, step_figures
from launcher.run.results import Result
from launcher.tracking.base import Point, Status

ENDS: Mapping[str, Status] = {"done": "done", "stopped": "stopped"}
"""The phases that end a start."""


class Figures:
    """Turns events into points. Steps that are made again after a restart were given before, and are left out.

    last_step: the last training step so far, None before the first
    ended_as: `done` or `stopped`, once the latest start has said so
    """

    def __init__(self) -> None:
        self.last_step: int | None = None
        self.ended_as: Status | None = None
        self._evaluated: set[tuple[str, int]] = set()

    def take(self, event: Event) -> Point | None:
        """The figures of an event that are new."""
        if isinstance(event, Began):
            self.ended_as = None
        elif isinstance(event, Phase):
            self.ended_as = ENDS.get(event.name)
        elif isinstance(event, Step) and event.step > (self.last_step or 0):
            self.last_step = event.step
            return Point(event.step, event.time, step_figures(event))
        elif isinstance(event, Evaluated):
            new = {name: metrics for name, metrics in event.metrics.items() if self._is_new(name, event.step)}
            if new:
                return Point(event.step, event.time, evaluation_figures(new))
        return None

    def _is_new(self, name: str, step: int) -> bool:
        known = (name, step) in self._evaluated
        self._evaluated.add((name, step))
        return not known


def summary_of(result: Result) -> dict[str, Value]:
    """What a finished run came to, under dotted names like those of the figures."""
    found: dict[str, Value] = {"result/steps": result.steps, "result/seconds": result.seconds}
    if result.best_step is not None:
        found["result/best_step"] = result.best_step
    for name, measured in result.sets.items():
        for metric, after in measured.after.items():
            found[f"result/{name}/{metric}/before"] = measured.before[metric]
            found[f"result/{name}/{metric}/after"] = after
    return found
