"""`adaptrun train --find-lr`: a short run at ever larger learning rates, of which nothing but a table is kept."""

from __future__ import annotations

from pathlib import Path

from launcher.job.requests import LrRangeAnswer, LrRangeRequest
from launcher.job.schema import Job
from launcher.plan.planner import make_plan
from launcher.run.folder import temporary_folder
from launcher.supervise.requests import ask_ranks

LINES = 20


def find_learning_rate(job: Job, job_file: Path) -> None:
    """Print the table and a suggestion. Raises RequestError and RunFailed."""
    found = sweep(job, job_file)
    print("  learning rate       loss   smoothed")
    for number in sorted({round(k * (len(found.points) - 1) / (LINES - 1)) for k in range(LINES)}):
        lr, loss, smoothed = found.points[number]
        print(f"{lr:15.2e} {loss:10.4f} {smoothed:10.4f}")
    print(found.verdict)


def sweep(job: Job, job_file: Path) -> LrRangeAnswer:
    """What the ranks found."""
    plain = {"probe": None, "unfreeze": None, "average": None, "interpolate": None}
    job = job.model_copy(update={"adapt": job.adapt.model_copy(update=plain)})
    plan = make_plan(job, job_file)
    with temporary_folder() as folder:
        folder.checkpoints.mkdir()
        folder.write_job(job)
        folder.write_plan(plan)
        return ask_ranks(LrRangeRequest(folder=str(folder.path)), processes=plan.processes, threads=plan.threads)
