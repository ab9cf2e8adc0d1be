"""What a run keeps of its batch jobs: the script, the jobs' numbers, the nodes that are left out."""

from __future__ import annotations

from pathlib import Path

from launcher.cluster import scheduler
from launcher.cluster.scheduler import JobState
from launcher.run.folder import RunFolder


def script_file(run: RunFolder) -> Path:
    """The batch script as it was queued."""
    return run.path / "job.sbatch"


def jobs_file(run: RunFolder) -> Path:
    """The number of each job that was queued for this run, a line each, the latest last."""
    return run.path / "jobs"


def excluded_file(run: RunFolder) -> Path:
    """Names of nodes that failed their check, a line each; the run is queued again without them."""
    return run.path / "exclude"


def jobs_of(run: RunFolder) -> list[str]:
    """Numbers of the run's jobs, the latest last; whoever queues a job notes its number, and so does its script."""
    try:
        return list(dict.fromkeys(jobs_file(run).read_text(encoding="utf-8", errors="replace").split()))
    except FileNotFoundError:
        return []


def latest_state(run: RunFolder) -> JobState | None:
    """What the scheduler says of the latest job, None where there is none or it is forgotten."""
    jobs = jobs_of(run)
    return scheduler.job_state(jobs[-1]) if jobs and scheduler.is_installed() else None


def current_job(run: RunFolder) -> str | None:
    """The number of the job that waits or runs for this run."""
    state = latest_state(run)
    return state.job if state is not None and state.is_alive else None
