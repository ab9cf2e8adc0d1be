"""`adaptrun train`: plan, find or make the run's folder, prepare, run the ranks, show what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from launcher.errors import OutOfMemory
from launcher.job.schema import Job
from launcher.plan.making import make_plan, with_smaller_micro_batches
from launcher.plan.plan import Plan
from launcher.run.checkpoints import last_checkpoint, micro_batch_limit
from launcher.run.display import Display, print_result
from launcher.run.environment import write_environment
from launcher.run.events import EventLog, Note
from launcher.run.folder import RunFolder
from launcher.run.results import Result
from launcher.run.resuming import decide_run
from launcher.start.processes import run_ranks


def train_job(job: Job, job_file: Path, resume: str) -> None:
    """Run a job to its end. Raises RequestError, RunFailed or Stopped."""
    plan = make_plan(job, job_file)
    decision = decide_run(job, resume)
    folder = decision.folder
    checkpoint = decision.checkpoint
    if checkpoint is not None and job.train.micro_batch_size == "auto":
        limit = micro_batch_limit(checkpoint)
        plan = plan if limit is None else with_smaller_micro_batches(plan, job, job_file, limit)
    folder.write_plan(plan)
    write_environment(folder)
    print(f"{folder.path}: {decision.reason}", flush=True)
    print(f"{plan.processes} × {plan.threads} threads, {plan.spread} on {plan.device}, {plan.split}", flush=True)
    with _shown(folder) as display:
        if plan.processes > 1:
            _run("launcher.worker.prepare", [str(folder.path)], 1, plan.threads * plan.processes, folder, display)
        while True:
            resumed = [] if checkpoint is None else ["--resume", str(checkpoint)]
            try:
                _run("launcher.worker", [str(folder.path), *resumed], plan.processes, plan.threads, folder, display)
                break
            except OutOfMemory:
                if job.train.micro_batch_size != "auto" or plan.split.micro_batch == 1:
                    raise
            plan = with_smaller_micro_batches(plan, job, job_file, plan.split.micro_batch // 2)
            folder.write_plan(plan)
            checkpoint = last_checkpoint(folder.checkpoints)
            _tell(folder, plan, checkpoint)
    print_result(Result.read(folder.result_file))


def _tell(folder: RunFolder, plan: Plan, checkpoint: Path | None) -> None:
    """Note in the run that it goes on with smaller micro-batches."""
    whence = "from the beginning" if checkpoint is None else f"from {checkpoint.name}"
    log = EventLog(folder.events_file)
    log.write(
        Note(text=f"out of memory; going on {whence} with micro-batches of {plan.split.micro_batch}, same numbers")
    )
    log.close()


def _run(module: str, arguments: list[str], processes: int, threads: int, folder: RunFolder, display: Display) -> None:
    run_ranks(module, arguments, processes=processes, threads=threads, folder=folder, watch=display.refresh)


@contextmanager
def _shown(folder: RunFolder) -> Iterator[Display]:
    display = Display(folder)
    try:
        yield display
    finally:
        display.close()
