"""`adaptrun train`: plan, find or make the run's folder, prepare, run the ranks, show what came of it."""

from __future__ import annotations

from pathlib import Path

from launcher.display.live import print_outcome
from launcher.job.schema import Job
from launcher.run.folder import RunFolder
from launcher.run.results import insist_on_adoption
from launcher.supervise.run import begin_run, run_to_the_end, shown
from launcher.supervise.stop_requests import StopRequests


def train_job(job: Job, job_file: Path, resume: str, *, last: bool = False) -> RunFolder:
    """Run a job to its end, and return the folder of its run. Raises RequestError, RunFailed, Stopped or NotAdopted.

    last: whether this process ends after it
    """
    with StopRequests().listening(last=last) as requests:
        begun = begin_run(job, job_file, resume)
        print(begun, flush=True)
        with shown(begun.folder) as display:
            run_to_the_end(begun, job, job_file, display, requests)
        print_outcome(begun.folder)
    insist_on_adoption(begun.folder)
    return begun.folder
