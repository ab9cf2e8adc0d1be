"""The tasks: one file per task family. Nothing here depends on ranks."""

from __future__ import annotations

import importlib
import sys

from launcher.errors import RequestError
from launcher.job.sections.tasks import FAMILIES
from launcher.models.parts.own_code import check_names, own_object
from launcher.models.tasks.base import Task

RENAMED = {
    "judged_by": "metric_directions",
    "survey": "collect_labels",
    "measures": "sample_stats",
    "figures": "metrics_from_sums",
    "values": "per_sample_values",
    "outcomes": "per_sample_results",
    "outcome_columns": "result_columns",
    "constant_outcomes": "constant_results",
}
"""Members of `Task` that were renamed since 0.1.0."""


def task_class(name: str, loss: str = "auto") -> type[Task]:
    """The task family that `task:` names, in the variant for a loss.

    Raises RequestError for a user's class that is not a complete task.
    """
    if name in FAMILIES:
        module, _, class_name = FAMILIES[name].partition(":")
        found = getattr(importlib.import_module(f"launcher.models.tasks.{module}"), class_name)
    else:
        found = own_object(name)
        if not (isinstance(found, type) and issubclass(found, Task)):
            raise RequestError(f"{name} is not a task; derive it from launcher.tasks.Task (docs/extending/task.md)")
        check_names(found, RENAMED)
    if loss in found.variants:
        found = getattr(sys.modules[found.__module__], found.variants[loss])
    lacking = sorted(found.__abstractmethods__)
    if lacking:
        raise RequestError(f"{name} lacks {', '.join(lacking)}; docs/extending/task.md describes each of them")
    complete: type[Task] = found
    return complete
