"""`adaptrun status`, `logs` and `cancel`: from the run's folder and the scheduler's queue, without accounting."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from launcher.cluster import scheduler
from launcher.cluster.batch_jobs import current_job, jobs_of, latest_state
from launcher.cluster.requeue import CANCEL
from launcher.display.goodput import Goodput
from launcher.errors import RequestError
from launcher.run.attempts import Attempt
from launcher.run.events import EventTail, Phase, Started, Step
from launcher.run.folder import RunFolder, find_latest_run, write_whole
from launcher.run.results import Result

RECENT = 20
"""Steps that the throughput is taken from."""


@dataclass(frozen=True)
class Status:
    """How a run stands.

    state: done, stopped, failed, running, waiting, interrupted (it has no process and can be resumed), new, or unknown,
        where the scheduler does not answer
    job: what the scheduler says of its batch job, None where it has none
    loss: mean of the last steps; samples_per_second: over the same
    seconds_left: at that speed, None where it is not known
    starts: how often its ranks were started
    seconds: where the time went, by the ledger
    verdict: whether the result should take the old model's place, and why; None before the end
    damage: which of the run's files cannot be read
    """

    run: str
    state: str
    phase: str
    job: str | None
    step: int
    total_steps: int | None
    loss: float | None
    samples_per_second: float | None
    seconds_left: float | None
    starts: int
    goodput: float | None
    seconds: dict[str, float]
    failure: str | None
    verdict: str | None = None
    damage: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [("run", self.run), ("state", f"{self.state}, {self.phase}" if self.phase else self.state)]
        if self.job is not None:
            lines.append(("queue", self.job))
        steps = f"{self.step} of {self.total_steps or '?'}"
        if self.loss is not None and self.samples_per_second is not None:
            steps += f"  loss {self.loss:.4f}  {self.samples_per_second:.1f} samples/s"
        if self.seconds_left is not None and self.state == "running":
            steps += f"  {self.seconds_left / 60:.0f} min left"
        lines += [("steps", steps), ("starts", str(self.starts))]
        if self.goodput is not None:
            lines.append(("goodput", str(Goodput(self.seconds))))
        if self.failure is not None:
            lines.append(("failure", self.failure))
        if self.verdict is not None:
            lines.append(("verdict", self.verdict))
        lines += [("damage", found) for found in self.damage]
        return "\n".join(f"{name:8} {text}" for name, text in lines)


def status_of(run: RunFolder) -> Status:
    """How a run stands now."""
    tail = EventTail(run.events_file)
    events = list(tail.read())
    steps = [event for event in events if isinstance(event, Step)]
    recent = steps[-RECENT:]
    begun = next((event for event in reversed(events) if isinstance(event, Started)), None)
    phase = next((event for event in reversed(events) if isinstance(event, Phase)), None)
    seconds = sum(step.seconds for step in recent)
    job, queue = _queue(run)
    start = Attempt.read(run)
    ledger = Goodput.of(events)
    is_running = run.is_claimed() or (job is not None and job.state == "RUNNING")
    total = None if begun is None else begun.total_steps
    try:
        result = Result.read(run.result_file) if run.result_file.exists() else None
    except RequestError:  # reported below
        result = None
    return Status(
        run=str(run.path),
        state=_state(run, job, is_running, is_known=job is not None or queue is None),
        phase=f"{phase.name} {phase.detail}".strip() if phase is not None and is_running else "",
        job=queue,
        step=steps[-1].step if steps else 0,
        total_steps=total,
        loss=sum(step.loss for step in recent) / len(recent) if recent else None,
        samples_per_second=sum(step.samples for step in recent) / seconds if seconds else None,
        seconds_left=(total - steps[-1].step) * seconds / len(recent) if recent and total is not None else None,
        starts=0 if start is None else start.count,
        goodput=ledger.goodput,
        seconds=ledger.seconds,
        failure=_failure_of(run),
        verdict=None if result is None or result.verdict is None else str(result.verdict),
        damage=run.damage(tail),
    )


def _failure_of(run: RunFolder) -> str | None:
    """The first line of the page of a failure."""
    try:
        lines = run.failure_file.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return None
    return lines[0] if lines else f"{run.failure_file.name} is empty"


def _queue(run: RunFolder) -> tuple[scheduler.JobState | None, str | None]:
    """The run's batch job, and what is said of it: that a scheduler is out of reach must not hide what files tell."""
    try:
        job = latest_state(run)
    except RequestError as error:
        return None, str(error)
    return job, None if job is None else str(job)


def _state(run: RunFolder, job: scheduler.JobState | None, is_running: bool, is_known: bool) -> str:
    if run.is_done():
        return "done"
    if is_running:
        return "running"
    if job is not None and job.is_alive:
        return "waiting"
    if not is_known:
        return "unknown"
    if run.failure_file.exists():
        return "failed"
    if run.result_file.exists():
        return "stopped"
    return "interrupted" if run.events_file.exists() else "new"


def show_status(path: Path | None, as_json: bool) -> None:
    """Print how a run stands, or every run in `runs/`. Raises RequestError."""
    if path is not None:
        found = [status_of(find_latest_run(path))]
    else:
        folders = [folder for folder in sorted(Path("runs").glob("*")) if not folder.is_symlink()]
        found = [status_of(RunFolder(folder.resolve())) for folder in folders if (folder / "job.yaml").is_file()]
        if not found:
            raise RequestError("there are no runs in runs/; name one elsewhere: adaptrun status RUN")
    if as_json:
        print(json.dumps([asdict(status) for status in found] if path is None else asdict(found[0]), indent=2))
    elif path is not None:
        print(found[0])
    else:
        for status in found:
            print(f"{status.state:12} {status.step:>7}/{status.total_steps or '?':<7} {status.run}")


def show_logs(path: Path, rank: int | None, follow: bool, sleep: Callable[[float], None] = time.sleep) -> None:
    """Print the log of a rank, or what the batch job printed; follow it while it grows. Raises RequestError."""
    run = find_latest_run(path)
    log = run.log(rank) if rank is not None else _output(run)
    if not log.exists():
        there = ", ".join(sorted(file.name for file in run.logs.glob("*.log"))) or "none"
        raise RequestError(f"there is no {log} yet; the logs of ranks are: {there}")
    with log.open(encoding="utf-8", errors="replace") as file:
        while True:
            goes_on = follow and _goes_on(run)  # asked before the last is read: a job still prints when its run is done
            sys.stdout.write(file.read())
            sys.stdout.flush()
            if not goes_on:
                return
            sleep(1.0)


def _goes_on(run: RunFolder) -> bool:
    """Whether something may still be printed."""
    return current_job(run) is not None or run.is_claimed()


def _output(run: RunFolder) -> Path:
    """The latest batch job's output (an array's lies next to its runs); of a run without one, the first rank's log."""
    jobs = jobs_of(run)
    if not jobs:
        return run.log(0)
    folder = run.path.parent if "_" in jobs[-1] else run.path
    return folder / f"slurm-{jobs[-1]}.out"


def cancel_run(path: Path, at_once: bool) -> None:
    """Ask a run to save and stop, and not to be taken up again. Raises RequestError where nothing runs."""
    run = find_latest_run(path)
    job = latest_state(run)
    is_queued = job is not None and job.is_alive
    if not is_queued and not run.is_claimed():
        raise RequestError(f"{run.path} is neither running nor waiting in a queue")
    write_whole(run.stop_file, CANCEL)
    if job is not None and is_queued and (at_once or job.state != "RUNNING"):
        scheduler.cancel(job.job)
        print(f"job {job.job} is cancelled")
    elif at_once and not is_queued:
        raise RequestError(
            f"{run.path} runs outside a queue: it saves a checkpoint and stops; to end it at once, kill its process"
        )
    else:
        print(f"{run.path} saves a checkpoint and stops; adaptrun status {run.path} shows when it has stopped")
