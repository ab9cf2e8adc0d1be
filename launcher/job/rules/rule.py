"""What a rule over several fields of a job says."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from launcher.job.schema import Job
from launcher.job.sections.tasks import Family

Violation = tuple[tuple[str, ...], str, str]
"""Path of the field, what is wrong, and the cheapest fix."""

Rule = Callable[[Job], Iterator[Violation]]
TaskRule = Callable[[Job, Family], Iterator[Violation]]
