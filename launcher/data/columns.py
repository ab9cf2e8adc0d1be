"""Check that data files have the columns that a job reads, in their first rows, before anything starts."""

from __future__ import annotations

from launcher.data.sources import files_left_out, look_at_beginnings
from launcher.job.schema import Job
from launcher.job.sections.tasks import FAMILIES, find_family


def check_columns(job: Job) -> None:
    """Check the beginning of each local data file. Raises DataError."""
    if job.task not in FAMILIES:  # a user's own task may choose among them in its code
        return
    family = find_family(job.task, loss=job.train.loss.name)
    for source in (*job.labelled_sets.values(), *job.data.validation.values()):
        look_at_beginnings(source, family.columns(source))
    if job.data.target is not None:
        look_at_beginnings(job.data.target, family.columns(job.data.target, labelled=False))


def left_out_of(job: Job) -> list[str]:
    """Files in the job's class folders that are not samples, one line per folder. Raises DataError."""
    sources = [*job.labelled_sets.values(), *job.data.validation.values(), job.data.target]
    lines = [line for source in sources if source is not None for line in files_left_out(source)]
    return list(dict.fromkeys(lines))
