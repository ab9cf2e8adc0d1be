"""What a rule over several fields of a job says."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from launcher.job.schema import Job
from launcher.job.tasks import Family

Found = tuple[tuple[str, ...], str, str]
"""Path of the field, what is wrong, and the cheapest fix."""

Rule = Callable[[Job], Iterator[Found]]
TaskRule = Callable[[Job, Family], Iterator[Found]]
