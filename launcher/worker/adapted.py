"""What the job's method makes of a loaded model, before any engine has it; and what no model can be made of."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from launcher.adapt import adapt_model, freeze_for_method
from launcher.adapt.adapters import Adapters, Setting
from launcher.adapt.course import Course, plan_course
from launcher.adapt.depth import learning_rate_factors
from launcher.adapt.method import Method
from launcher.errors import ModelError
from launcher.job.adapting import Adapting
from launcher.job.schema import Job
from launcher.models.loading import Loaded


@dataclass(frozen=True)
class Adapted:
    """How the parameters of a model learn.

    adapters: what was added to it; None where the method adds nothing
    course: what learns from which step on
    factors: what the learning rate of each parameter that ever learns is multiplied by
    """

    adapters: Adapters | None
    course: Course
    factors: dict[str, float]


def adapt(job: Job, loaded: Loaded, method: Method | None, setting: Setting, total_steps: int) -> Adapted:
    """Add to the model what the job's method adds, and freeze what it freezes.

    Raises ModelError where the job cannot be had with this model. Weights may still be in their files.
    """
    check_start(job.adapt, loaded)
    adapters = adapt_model(job.adapt, loaded, setting)
    freeze_for_method(method, loaded)
    course = plan_course(job.adapt, loaded, total_steps)
    return Adapted(adapters, course, learning_rate_factors(job.adapt, loaded.model))


def check_start(spec: Adapting, loaded: Loaded) -> None:
    """Raises ModelError where the model as it came cannot be what the job takes it for."""
    new = ", ".join(loaded.new)
    if spec.interpolate is not None and loaded.new and spec.probe is None:
        raise ModelError(
            f"adapt.interpolate: {new} start at random, so no model between start and end makes sense; add "
            "adapt.probe: 0.2, after which the head has a start, or begin with a finished model"
        )
    if spec.distill is not None and loaded.new:
        raise ModelError(
            f"adapt.distill: {new} start at random, so the pretrained model has no outputs to stay near; begin with a "
            "finished model"
        )
    is_normed = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in loaded.model.modules())
    if (spec.interpolate is not None or spec.average is not None) and is_normed:
        name = "average" if spec.interpolate is None else "interpolate"
        raise ModelError(
            f"adapt.{name}: {type(loaded.model).__name__} gathers statistics of batches as it trains, which would be "
            "those of other weights; remove it"
        )
