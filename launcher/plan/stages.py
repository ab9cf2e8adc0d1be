"""The stages of a run: the samples, objective, learning rate and trained parameters of each step.

Continued pre-training, a linear probe, gradual unfreezing and training itself are all stages. They depend only on the
job, the number of samples and the model's modules. So the step determines the stage, also when a run resumes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

from launcher.errors import ModelError
from launcher.job.schema import Job
from launcher.job.sections.adapting import Adapting
from launcher.plan.lr_schedule import LearningRate
from launcher.plan.steps import pretraining_steps

Samples = Literal["labelled", "target", "labelled and target"]
PRETRAINING, PROBE, UNFREEZING, TRAINING = "continued pre-training", "linear probe", "unfreezing", "training"


@dataclass(frozen=True)
class Stage:
    """A part of the run.

    start, end: optimizer steps done before its first and after its last
    samples: the sets that its steps sample from. They determine the objective: the task's loss on labelled samples, and
        the method's objective on target samples
    drawn_since: the step from which these samples are used and their epochs counted
    rate: its learning rate; stages of gradual unfreezing share one schedule
    learning: names of the trained parameters; empty while the model is not known
    """

    name: str
    start: int
    end: int
    samples: Samples
    drawn_since: int
    rate: LearningRate
    learning: frozenset[str] = frozenset()

    @property
    def is_validated(self) -> bool:
        """Whether it is validated: before the first labelled sample the head is untrained."""
        return self.name != PRETRAINING

    @property
    def has_start(self) -> bool:
        """Whether its initial model is a meaningful start for interpolation: a new head needs a linear probe first."""
        return self.name != PROBE


@dataclass(frozen=True)
class Span:
    """Consecutive stages that train the same parameters, in one engine.

    number, of: its number, from 0, and the number of spans
    end: optimizer steps done after its last
    """

    number: int
    of: int
    end: int
    learning: frozenset[str]


@dataclass(frozen=True)
class StagePlan:
    """All stages in order, the last of which ends the run."""

    stages: tuple[Stage, ...]

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run unless it stops early."""
        return self.stages[-1].end

    @property
    def epochs_since(self) -> int:
        """The step from which the run's epochs are counted."""
        return self.stages[-1].drawn_since

    def at(self, step: int) -> Stage:
        """The stage that the step after `step` optimizer steps belongs to."""
        return next((stage for stage in self.stages if step < stage.end), self.stages[-1])

    @property
    def spans(self) -> tuple[Span, ...]:
        """The stages grouped by their trained parameters."""
        found = [list(stages) for _, stages in groupby(self.stages, key=lambda stage: stage.learning)]
        return tuple(
            Span(number, len(found), stages[-1].end, stages[-1].learning) for number, stages in enumerate(found)
        )

    def span_at(self, step: int) -> Span:
        """The span that the step after `step` optimizer steps belongs to."""
        return next((span for span in self.spans if step < span.end), self.spans[-1])

    def since(self, name: str) -> int:
        """The number of the span from which a parameter is trained."""
        return next(span.number for span in self.spans if name in span.learning)

    def with_learning(self, sets: Sequence[frozenset[str]], spec: Adapting) -> StagePlan:
        """The stages of a model whose parameters are unfrozen set by set; training is split where a set is added.

        sets: each contains the one before; the first is what a linear probe trains, if there is one
        Raises ModelError if there are too few steps for all stages.
        """
        *before, training = self.stages
        probes = [stage.name == PROBE for stage in before]
        learning = [sets[0] if is_probe else sets[-1] for is_probe in probes]
        later = sets[1:] if any(probes) else sets
        starts = _starts(spec, training.start, len(later), self.total_steps)
        _check_room([stage.start for stage in before] + starts, self.total_steps)
        names = [UNFREEZING] * (len(later) - 1) + [TRAINING]
        cut = [
            replace(training, name=name, start=start, end=end, learning=names_of)
            for name, start, end, names_of in zip(names, starts, [*starts[1:], self.total_steps], later, strict=True)
        ]
        return StagePlan((*(replace(stage, learning=own) for stage, own in zip(before, learning, strict=True)), *cut))


def plan_stages(job: Job, supervised: int, target: int = 0) -> StagePlan:
    """The stages of a run, as far as they are known without its model.

    supervised: steps of training itself, including those of a linear probe
    target: number of target samples
    """
    adapt, schedule, peak = job.adapt, job.train.schedule, job.train.optimizer.lr
    first = pretraining_steps(job, target)
    total, stages = first + supervised, list[Stage]()
    samples = samples_of(job)
    if first:
        asked = None if adapt.pretraining is None else adapt.pretraining.lr
        rate = LearningRate(schedule, asked or peak, first)
        stages.append(Stage(PRETRAINING, 0, first, "target", 0, rate))
    begun = first
    if adapt.probing is not None:
        begun += _share_of(adapt.probing.steps, total)
        rate = LearningRate.constant(adapt.probing.lr or peak, begun - first, first)
        stages.append(Stage(PROBE, first, begun, samples, first, rate))
    rate = LearningRate(schedule, peak, total - begun, begun)
    return StagePlan((*stages, Stage(TRAINING, begun, total, samples, first, rate)))


def samples_of(job: Job) -> Samples:
    """The sets that a training step samples from."""
    if job.adapt.is_source_free:
        return "target"
    return "labelled and target" if job.sees_target_alongside else "labelled"


def _share_of(value: float, total_steps: int) -> int:
    """Number of steps: below 1 the value is a fraction of all steps, from 1 on a number; at least one."""
    return max(1, round(value * total_steps) if value < 1 else round(value))


def _starts(spec: Adapting, begun: int, stages: int, total_steps: int) -> list[int]:
    """The first step of each stage that unfreezes parameters: after the stages before, then evenly spaced."""
    if spec.unfreeze == "gradual":
        room = total_steps // 2 - begun
        return [begun + round(room * number / max(1, stages - 1)) for number in range(stages)]
    every = _share_of(spec.unfreeze or 1, total_steps)
    return [begun + every * number for number in range(stages)]


def _check_room(starts: Sequence[int], total_steps: int) -> None:
    ends = [*starts[1:], total_steps]
    if ends != sorted(set(ends)):
        raise ModelError(
            f"adapt: {len(starts)} stages that begin after {', '.join(map(str, starts))} steps do not "
            f"fit into {total_steps} steps, since each needs at least one; shorten adapt.probe or "
            "adapt.unfreeze, or train longer"
        )
