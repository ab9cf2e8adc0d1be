"""What a step minimises: one file per method, and here the table of them. Nothing here depends on ranks."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from launcher.adapt.methods.method import Method
from launcher.errors import RequestError
from launcher.job.schema import Job
from launcher.models.parts.own_code import check_names, own_object
from launcher.models.tasks.base import Task

METHODS = {
    "dapt": "dapt:ContinuedPretraining",
    "udalm": "udalm:MixedLanguage",
    "dann": "dann:DomainAdversarial",
    "cdan": "cdan:ConditionalAdversarial",
    "coral": "coral:CovarianceAlignment",
    "mmd": "mmd:DiscrepancyAlignment",
    "mcc": "mcc:ClassConfusion",
    "self-training": "self_training:SelfTrained",
    "shot": "shot:SourceFree",
    "tent": "tent:SureNormalisation",
    "group-dro": "group_dro:GroupRobust",
}
"""Name to module and class; a new one needs a file here, a line here and a section in `job/sections/methods.py`."""

RENAMED = {
    "over_all": "batch_loss",
    "reweighted": "sample_factors",
    "learns": "is_trainable",
    "parts": "extra_modules",
}
"""Members of `Method` that were renamed since 0.1.0."""


def make_method(job: Job, task: Task, sets: Mapping[str, int], target: int) -> Method | None:
    """The job's method; only its file is imported. None if a step minimises only the task's loss.

    Raises RequestError for a user's class that is not a method, ModelError for a tokenizer that it does not support.
    """
    if job.adapt.is_plain:
        return None
    own = job.adapt.own_class
    if own is not None:
        found = own_object(own)
        if not (isinstance(found, type) and issubclass(found, Method)):
            raise RequestError(
                f"{own} is not a method; derive it from launcher.methods.Method (docs/extending/method.md)"
            )
        check_names(found, RENAMED)
    else:
        module, _, name = METHODS[job.adapt.method].partition(":")
        found = getattr(importlib.import_module(f"launcher.adapt.methods.{module}"), name)
    made: Method = found(job.adapt, task, sets, target)
    return made
