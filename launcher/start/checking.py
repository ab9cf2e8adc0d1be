"""`adaptrun check`: everything that is wrong with a job, without starting anything."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from launcher.data.columns import check_columns
from launcher.job.paths import taken_for_hub_ids
from launcher.job.reading import load_job


def check_job_file(file: Path, sets: Sequence[str], as_json: bool) -> None:
    """Say what a sound job file means. Raises RequestError with what is wrong with it, or with its data files."""
    job = load_job(file, sets)
    check_columns(job)
    if as_json:
        print(json.dumps(job.as_dict(), indent=2))
        return
    for place in taken_for_hub_ids(job):
        print(f"{place}: nothing of that name is here, so it is taken for an id of the Hugging Face hub")
    print(f"{file}: no problem found")
