"""The learning rate: a function of the step, and for a plateau of what validation said."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi

from launcher.job.sections.training import Schedule


@dataclass(frozen=True)
class LearningRate:
    """The schedule of one run.

    peak: the optimizer's `lr`
    total_steps: optimizer steps of the whole run
    probe_steps, probe_lr: steps before the schedule begins, and their constant rate
    """

    schedule: Schedule
    peak: float
    total_steps: int
    probe_steps: int = 0
    probe_lr: float = 0.0

    @property
    def warmup_steps(self) -> int:
        """A fraction of all steps that are scheduled below 1, a number of steps from 1 on."""
        warmup = self.schedule.warmup
        return round(warmup * (self.total_steps - self.probe_steps)) if warmup < 1 else round(warmup)

    def at(self, step: int, plateau: float = 1.0) -> float:
        """The rate of step `step` (from 0); `plateau` is what stalled validation has multiplied it by."""
        warm, floor = self.warmup_steps, self.schedule.min_lr
        if step < self.probe_steps:
            return self.probe_lr
        step, steps = step - self.probe_steps, self.total_steps - self.probe_steps
        if step < warm:
            return self.peak * (step + 1) / warm
        done = (step - warm) / max(1, steps - warm)
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
