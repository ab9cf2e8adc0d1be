"""Whether data files have the columns that a job reads: found in their first rows, before anything starts."""

from __future__ import annotations

from launcher.data.sources import files_left_out, look_at_beginnings
from launcher.job.schema import Job
from launcher.job.sections.tasks import FAMILIES, find_family


def check_columns(job: Job) -> None:
    """Look at the beginning of each data file that lies here. Raises DataError."""
    if job.task not in FAMILIES:  # a family of one's own may choose among them in its code
        return
    family = find_family(job.task, loss=job.train.loss.name)
    for source in (*job.labelled_sets.values(), *job.data.validation.values()):
        look_at_beginnings(source, family.columns(source))
    if job.data.target is not None:
        look_at_beginnings(job.data.target, family.columns(job.data.target, labelled=False))


def left_out_of(job: Job) -> list[str]:
    """Files that lie in the job's folders of classes and are no samples, a line a folder. Raises DataError."""
    sources = [*job.labelled_sets.values(), *job.data.validation.values(), job.data.target]
    lines = [line for source in sources if source is not None for line in files_left_out(source)]
    return list(dict.fromkeys(lines))
