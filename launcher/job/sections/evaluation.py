"""The sections of the job file that say what chooses the checkpoint, and whether the result is better than what was."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat, PositiveInt

from launcher.job.sections.data import SetName
from launcher.job.sections.marks import numbers, report, speed
from launcher.job.sections.section import Section

BASELINE = "baseline"
"""The name of `verdict.baseline` among the models that are compared."""


class Validation(Section):
    """When the model is evaluated, and by which metric."""

    every: Literal["epoch"] | PositiveInt = numbers("epoch", description="Each epoch, or every this many steps.")
    metric: str = numbers(
        "loss",
        description="What the best checkpoint, the plateau schedule and early stopping go by: `loss`, or "
        "a metric of the task (docs/guides/tasks.md).",
    )
    set: str | None = numbers(None, description="Which validation set decides; absent: the first named.")
    selector: Literal["labelled", "importance-weighted"] = numbers(
        "labelled",
        description="What selects the best checkpoint. labelled: the metric on the set. "
        "importance-weighted: where `data.target` has no labels, the metric (loss or accuracy) with each "
        "sample weighted by how common such samples are in the target.",
    )
    batch_size: PositiveInt = speed(32, description="Samples of full length per evaluation batch; changes no result.")


class Verdict(Section):
    """Whether the result should take the old model's place, and how that is decided (docs/guides/verdict.md)."""

    metric: str = report(
        "auto",
        description="The metric that has to improve. auto: `validation.metric`, or where that is the "
        "loss, the first metric of the task.",
    )
    set: str | None = report(
        None,
        description="The validation set on which it has to improve; absent: the one that decides. A set "
        "that does not also select the checkpoint gives an unbiased result.",
    )
    baseline: str | None = report(
        None,
        description="The finished run or model folder that the result would replace; absent: the pretrained model.",
    )
    compare: dict[SetName, str] = report(
        default_factory=dict,
        description="Further finished runs or model folders, with a name each (`{scratch: runs/a, oracle: runs/b}`): "
        "measured on the same samples and shown; they do not affect the verdict.",
    )
    must_hold: tuple[str, ...] = report(
        (),
        description="Validation sets on which the metric may not get worse by more than the margin, such "
        "as the old domain.",
    )
    margin: NonNegativeFloat = report(
        0.01,
        description="The smallest change that matters: 0.01 is one point of a metric where higher is "
        "better, and 1 % of the baseline's value where lower is better.",
    )
    gate: bool = report(
        False, description="End with exit code 1 unless the verdict is to adopt; `adaptrun train --gate` sets it."
    )
