"""The stages of a run: what learns from which step on. Each stage is trained by an engine of its own.

Changing what learns under a living engine fails or loses parameters, so the engine is built anew for each stage, from
a checkpoint, under every engine alike. Stages follow from the job, the model and the number of steps alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher.adapt.options.layerwise_lr import distances
from launcher.errors import ModelError
from launcher.job.sections.adapting import Adapting
from launcher.models.weights.loading import Loaded

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Stage:
    """A part of the run.

    start, end: optimizer steps done before its first and after its last
    learning: names of the model's parameters that learn in it
    """

    number: int
    start: int
    end: int
    learning: frozenset[str]


@dataclass(frozen=True)
class StagePlan:
    """All stages in order; each holds what the one before holds, and the last all that ever learns."""

    stages: tuple[Stage, ...]

    def at(self, step: int) -> Stage:
        """The stage that the step after `step` optimizer steps belongs to."""
        return next((stage for stage in self.stages if step < stage.end), self.stages[-1])

    def since(self, name: str) -> int:
        """The number of the stage in which a parameter begins to learn."""
        return next(stage.number for stage in self.stages if name in stage.learning)


def plan_stages(spec: Adapting, loaded: Loaded, total_steps: int) -> StagePlan:
    """The stages of a model whose `requires_grad` says what ever learns.

    Raises ModelError where there is no head to begin with, or the steps do not suffice for all stages.
    """
    model = loaded.model
    everything = frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    sets: list[frozenset[str]] = []
    if spec.probing is not None:
        head = _head(loaded)
        sets.append(everything & head)
        if head and not sets[0]:
            raise ModelError("adapt.probe: model.frozen or the method keeps the head as it is; remove adapt.probe")
        if not sets[0]:
            name = type(model).__name__
            raise ModelError(f"adapt.probe: {name} has no head that learns by itself; remove adapt.probe")
        if sets[0] == everything:
            raise ModelError("adapt.probe: nothing is trained besides the head; remove it")
    if spec.unfreeze is not None:
        depth = distances(model)
        for level in sorted({depth[name] for name in everything}):
            sets.append(frozenset(name for name in everything if depth[name] <= level) | (sets[0] if sets else set()))
    sets = list(dict.fromkeys([*sets, everything]))
    starts = _starts(spec, len(sets), total_steps)
    ends = [*starts[1:], total_steps]
    if ends != sorted(set(ends)):
        raise ModelError(
            f"adapt: {len(sets)} stages that begin after {', '.join(map(str, starts))} steps do not fit into "
            f"{total_steps}, since each needs a step of its own; shorten adapt.probe or adapt.unfreeze, or train longer"
        )
    return StagePlan(tuple(map(Stage, range(len(sets)), starts, ends, sets)))


def probe_steps(spec: Adapting, total_steps: int) -> int:
    """Optimizer steps of the probe; 0 without one."""
    return 0 if spec.probing is None else _steps(spec.probing.steps, total_steps)


def _steps(value: float, total_steps: int) -> int:
    """A share of all steps below 1, a number of steps from 1 on; at least one."""
    return max(1, round(value * total_steps) if value < 1 else round(value))


def _starts(spec: Adapting, stages: int, total_steps: int) -> list[int]:
    """Where each stage begins: after the probe, then evenly."""
    begun = probe_steps(spec, total_steps)
    known = [0, begun] if begun else [0]
    left = stages - len(known)
    if spec.unfreeze == "gradual":
        room = total_steps // 2 - begun
        return [*known, *(begun + round(room * number / left) for number in range(1, left + 1))]
    every = _steps(spec.unfreeze or 1, total_steps)
    return [*known, *(begun + every * number for number in range(1, left + 1))]


def _head(loaded: Loaded) -> frozenset[str]:
    """What stands outside the base model, and what the pretrained model lacks."""
    model: PreTrainedModel = loaded.model
    inside = set() if model.base_model is model else set(model.base_model.parameters())
    outside = {name for name, parameter in model.named_parameters() if inside and parameter not in inside}
    return frozenset(outside | set(loaded.new))
