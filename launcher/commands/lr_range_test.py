"""`adaptrun train --find-lr`: a short run at ever larger learning rates, of which nothing but a table is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from launcher.job.schema import Job
from launcher.plan.planner import make_plan
from launcher.run.folder import temporary_folder
from launcher.supervise.processes import run_ranks

LINES = 20


def find_learning_rate(job: Job, job_file: Path) -> None:
    """Print the table and a suggestion. Raises RequestError and RunFailed."""
    found = sweep(job, job_file)
    print("  learning rate       loss   smoothed")
    points = found["points"]
    for number in sorted({round(k * (len(points) - 1) / (LINES - 1)) for k in range(LINES)}):
        lr, loss, smoothed = points[number]
        print(f"{lr:15.2e} {loss:10.4f} {smoothed:10.4f}")
    print(found["verdict"])


def sweep(job: Job, job_file: Path) -> dict[str, Any]:
    """What the ranks found: points (rate, loss, smoothed loss), a suggestion or None, and a verdict in words."""
    plain = {"probe": None, "unfreeze": None, "average": None, "interpolate": None}
    job = job.model_copy(update={"adapt": job.adapt.model_copy(update=plain)})
    plan = make_plan(job, job_file)
    with temporary_folder() as folder:
        folder.checkpoints.mkdir()
        folder.write_job(job)
        folder.write_plan(plan)
        run_ranks(
            "launcher.worker.requests.find_lr",
            [str(folder.path)],
            processes=plan.processes,
            threads=plan.threads,
            folder=folder,
            watch=lambda: None,
        )
        found: dict[str, Any] = json.loads(folder.result_file.read_text(encoding="utf-8"))
    return found
