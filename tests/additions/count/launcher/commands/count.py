"""`adaptrun count`: how many words the training data of a job have."""

from __future__ import annotations

from launcher.job.requests import CountRequest
from launcher.job.schema import Job
from launcher.supervise.requests import ask_ranks


def count_words(job: Job, processes: int) -> None:
    """Print what the ranks found together. Raises RequestError and RunFailed."""
    files = tuple(file for source in job.data.train.values() for file in source.files)
    found = ask_ranks(CountRequest(files=files), processes=processes)
    print(f"{found.words} words, counted by {found.ranks} ranks")
