"""What the job's method makes of a loaded model, before any engine has it; and what no model can be made of."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from launcher.adapt.adapters import add_adapters
from launcher.adapt.adapters.adapters import AdapterContext, Adapters
from launcher.adapt.methods.method import Method
from launcher.adapt.methods.module import freeze_for_method
from launcher.adapt.options.layerwise_lr import learning_rate_factors
from launcher.adapt.options.unfreezing import learning_sets
from launcher.errors import ModelError
from launcher.job.schema import Job
from launcher.job.sections.adapting import Adapting
from launcher.models.weights.loading import Loaded
from launcher.plan.stages import StagePlan


@dataclass(frozen=True)
class Adapted:
    """How the parameters of a model learn.

    adapters: what was added to it, if anything
    stages: of the run, with what learns in each
    factors: what the learning rate of each parameter that ever learns is multiplied by
    """

    adapters: Adapters | None
    stages: StagePlan
    factors: dict[str, float]


def apply_adaptation(
    job: Job, loaded: Loaded, method: Method | None, setting: AdapterContext, stages: StagePlan
) -> Adapted:
    """Add to the model what the job's method adds, and freeze what it freezes.

    stages: what is known of them without the model
    Raises ModelError where the job cannot be had with this model. Weights may still be in their files.
    """
    check_start(job.adapt, loaded)
    adapters = None if job.adapt.adapters is None else add_adapters(job.adapt.adapters, loaded, setting)
    freeze_for_method(method, loaded)
    if adapters is not None and method is not None:
        learning = sum(parameter.numel() for parameter in loaded.model.parameters() if parameter.requires_grad)
        adapters = replace(adapters, learning=learning)
    stages = stages.with_learning(learning_sets(job.adapt, loaded), job.adapt)
    return Adapted(adapters, stages, learning_rate_factors(job.adapt, loaded.model))


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
