"""`adaptrun train`: plan, find or make the run's folder, prepare, run the ranks, show what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from launcher.job.schema import Job
from launcher.plan.making import make_plan
from launcher.run.display import Display, print_result
from launcher.run.environment import write_environment
from launcher.run.folder import RunFolder
from launcher.run.results import Result
from launcher.run.resuming import decide_run
from launcher.start.processes import run_ranks


def train_job(job: Job, job_file: Path, resume: str) -> None:
    """Run a job to its end. Raises RequestError, RunFailed or Stopped."""
    plan = make_plan(job, job_file)
    decision = decide_run(job, resume)
    folder = decision.folder
    folder.write_plan(plan)
    write_environment(folder)
    print(f"{folder.path}: {decision.reason}", flush=True)
    print(f"{plan.processes} × {plan.threads} threads, {plan.spread} on {plan.device}, {plan.split}", flush=True)
    resumed = [] if decision.checkpoint is None else ["--resume", str(decision.checkpoint)]
    with _shown(folder) as display:
        if plan.processes > 1:
            _run("launcher.worker.prepare", [str(folder.path)], 1, plan.threads * plan.processes, folder, display)
        _run("launcher.worker", [str(folder.path), *resumed], plan.processes, plan.threads, folder, display)
    print_result(Result.read(folder.result_file))


def _run(module: str, arguments: list[str], processes: int, threads: int, folder: RunFolder, display: Display) -> None:
    run_ranks(module, arguments, processes=processes, threads=threads, folder=folder, watch=display.refresh)


@contextmanager
def _shown(folder: RunFolder) -> Iterator[Display]:
    display = Display(folder)
    try:
        yield display
    finally:
        display.close()
