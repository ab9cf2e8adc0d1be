"""The learning rate: a function of the step, and for a plateau schedule also of the validation metric."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi

from launcher.job.sections.training import Schedule


@dataclass(frozen=True)
class LearningRate:
    """The schedule of a part of the run.

    peak: the optimizer's `lr`
    steps: optimizer steps that are scheduled
    start: optimizer steps before them
    """

    schedule: Schedule
    peak: float
    steps: int
    start: int = 0

    @classmethod
    def constant(cls, rate: float, steps: int, start: int) -> LearningRate:
        """The same rate in each step."""
        return cls(Schedule(name="constant"), rate, steps, start)

    @property
    def warmup_steps(self) -> int:
        """Warm-up steps: below 1 the setting is a fraction of the scheduled steps, from 1 on a number of steps."""
        warmup = self.schedule.warmup
        return round(warmup * self.steps) if warmup < 1 else round(warmup)

    def at(self, step: int, plateau: float = 1.0) -> float:
        """The rate of step `step` of the run (from 0); `plateau` is the factor of the plateau schedule."""
        warm, floor, step = self.warmup_steps, self.schedule.min_lr, step - self.start
        if step < warm:
            return self.peak * (step + 1) / warm
        done = (step - warm) / max(1, self.steps - warm)
        match self.schedule.name:
            case "constant":
                share = 1.0
            case "linear":
                share = 1.0 - done
            case "cosine":
                share = (1.0 + cos(pi * done)) / 2
            case "plateau":
                return max(floor, self.peak * plateau)
        return floor + (self.peak - floor) * share
