"""Whether a run that failed is restarted: with smaller micro-batches, or as it was."""

from __future__ import annotations

from pathlib import Path

from launcher.errors import OutOfMemory
from launcher.job.schema import Job
from launcher.plan.planner import with_smaller_micro_batches
from launcher.run.attempts import Attempt, attempts_without_progress, begin_next_attempt
from launcher.run.events import EventLog
from launcher.run.folder import RunFolder
from launcher.supervise.failure import RankFailed


def restart(folder: RunFolder, job: Job, job_file: Path, failed: RankFailed) -> Attempt:
    """Begin a new start from the last complete checkpoint. Raises `failed` where that would not help."""
    _adapt(folder, job, job_file, failed)
    start = begin_next_attempt(folder, "restart")
    whence = "from the beginning" if start.checkpoint is None else f"from {Path(start.checkpoint).name}"
    log = EventLog(folder.events_file)
    log.note(f"{failed.failure.kind.value}; resuming {whence} {_change(folder, failed)}")
    log.close()
    return start


def _adapt(folder: RunFolder, job: Job, job_file: Path, failed: RankFailed) -> None:
    """Change the plan to what may go well. Raises `failed` where a new start would not help."""
    if isinstance(failed, OutOfMemory):
        plan = folder.plan()
        if job.train.micro_batch_size != "auto" or plan.split.micro_batch == 1:
            raise failed
        folder.write_plan(with_smaller_micro_batches(plan, job, job_file, plan.split.micro_batch // 2))
        return
    latest, most = Attempt.read(folder), job.launch.max_restarts
    if latest is None or most == 0 or not failed.failure.kind.may_pass:
        raise failed
    if attempts_without_progress(folder, latest) > most:
        raise failed


def _change(folder: RunFolder, failed: RankFailed) -> str:
    if isinstance(failed, OutOfMemory):
        return f"with micro-batches of {folder.plan().split.micro_batch}, same numbers"
    failure = failed.failure
    return f"after {failure.error} of rank {failure.rank} on {failure.host}"
