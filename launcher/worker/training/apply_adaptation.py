"""Apply the job's method to a loaded model, before an engine prepares it, and check that it fits."""

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
    """How the parameters of a model are trained.

    adapters: those that were added, if any
    stages: of the run, with the trained parameters of each
    factors: factor of the learning rate of each parameter that is ever trained
    """

    adapters: Adapters | None
    stages: StagePlan
    factors: dict[str, float]


def apply_adaptation(
    job: Job, loaded: Loaded, method: Method | None, setting: AdapterContext, stages: StagePlan
) -> Adapted:
    """Add the job's adapters to the model, and freeze what the job freezes.

    stages: the stages, as known without the model
    Raises ModelError if the job does not fit this model. Weights may still be in their files.
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
    """Raises ModelError if the pretrained model cannot be used as a start or a teacher, as the job requests."""
    new = ", ".join(loaded.new)
    if spec.interpolate is not None and loaded.new and spec.probe is None:
        raise ModelError(
            f"adapt.interpolate: {new} are initialised at random, so interpolating from the start makes "
            "no sense; add adapt.probe: 0.2, which trains the head first, or start from a fine-tuned model"
        )
    if spec.distill is not None and loaded.new:
        raise ModelError(
            f"adapt.distill: {new} are initialised at random, so the pretrained model has no outputs to "
            "stay near; start from a fine-tuned model"
        )
    is_normed = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in loaded.model.modules())
    if (spec.interpolate is not None or spec.average is not None) and is_normed:
        name = "average" if spec.interpolate is None else "interpolate"
        raise ModelError(
            f"adapt.{name}: {type(loaded.model).__name__} updates statistics of batches during training "
            "(BatchNorm), which would be those of other weights; remove it"
        )
