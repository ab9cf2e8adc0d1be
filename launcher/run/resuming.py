"""Which run a start belongs to: a new one, or one that is unfinished."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import DamagedCheckpoint, JobError, RequestError
from launcher.files import remove_leftovers
from launcher.job.reading.job_file import load_kept_job
from launcher.job.schema import Job
from launcher.job.sections.marks import values_that
from launcher.plan.plan import Plan
from launcher.plan.planner import with_smaller_micro_batches
from launcher.run.attempts import Cause
from launcher.run.checkpoints import (
    complete_checkpoints,
    incomplete_checkpoints,
    micro_batch_limit,
    quick_fault,
    set_aside,
)
from launcher.run.claims import holder
from launcher.run.failures import forget_failures
from launcher.run.folder import RunFolder, runs_named


@dataclass(frozen=True)
class Decision:
    """The run's folder, the checkpoint it resumes from (None: from the beginning), and why, for the user.

    cause: why the ranks start
    insists: the user named the very checkpoint
    """

    folder: RunFolder
    checkpoint: Path | None
    reason: str
    cause: Cause = "resumed"
    insists: bool = False


def decide_run(job: Job, resume: str, is_taken: Callable[[RunFolder], bool] = lambda run: False) -> Decision:
    """Find or make the folder for a start.

    resume: `auto`, `never`, or the path of a run or of one of its checkpoints
    is_taken: whether a run waits in a queue, or runs on other machines
    Raises RequestError where that path cannot be resumed.
    """
    if resume == "never":
        return _new(job, "a new run")
    if resume != "auto":
        return _named(job, Path(resume), is_taken)
    alive: str | None = None
    for path in runs_named(job.runs_folder, job.name):
        run = RunFolder(path.resolve())
        if not run.job_file.is_file() or run.is_done():
            continue
        if is_taken(run) or run.is_claimed():
            alive = alive or f"{path.name}{_holder_of(run)}"
            continue
        checkpoints = complete_checkpoints(run.checkpoints)
        if not (checkpoints or _is_stopped(run)):
            continue
        try:
            is_the_same = not differing_fields(job, load_kept_job(run.job_file))
            why = f"the unfinished {path.name} has another job"
        except JobError as error:  # its data are gone, it was written by another version, or it is damaged
            is_the_same, first = False, str(error).splitlines()[0]
            why = f"the job of the unfinished {path.name} cannot be read: {first}"
        if is_the_same and run.claim():
            return _resume(job, run, checkpoints, "to start a new run: --resume never")
        if is_the_same:  # another start was faster
            alive = alive or f"{path.name}{_holder_of(run)}"
        elif checkpoints:  # else it holds nothing that would be lost
            return _new(job, f"a new run: {why}")
    return _new(job, "a new run" if alive is None else f"a new run, since {alive} is still running or waiting")


def finished_run(job: Job) -> RunFolder | None:
    """The newest run of a job, if it has come to its end; None where that is another job's."""
    run = next(map(RunFolder, runs_named(job.runs_folder, job.name)), None)
    if run is None or not run.job_file.is_file() or not run.is_done() or _is_of_another_job(run, job):
        return None
    return run


def with_remembered_limit(plan: Plan, job: Job, job_file: Path, decision: Decision) -> Plan:
    """The plan with micro-batches no larger than those that the checkpoint's run was left with."""
    if decision.checkpoint is None or job.train.micro_batch_size != "auto":
        return plan
    limit = micro_batch_limit(decision.checkpoint)
    return plan if limit is None else with_smaller_micro_batches(plan, job, job_file, limit)


def _is_of_another_job(run: RunFolder, job: Job) -> bool:
    try:
        return bool(differing_fields(job, load_kept_job(run.job_file)))
    except JobError:  # its data are gone, or it was written by another version
        return True


def differing_fields(job: Job, other: Job) -> list[str]:
    """The fields that decide numbers and differ, as dotted paths."""
    return _differences(values_that("numbers", job), values_that("numbers", other), "")


def _named(job: Job, path: Path, is_taken: Callable[[RunFolder], bool]) -> Decision:
    is_checkpoint = path.parent.name == "checkpoints"
    if is_checkpoint:
        run, checkpoints = RunFolder(path.parent.parent.resolve()), [path.resolve()]
        if checkpoints[0] not in complete_checkpoints(run.checkpoints):
            raise RequestError(f"{path} is no complete checkpoint; the complete ones are {_listed(run)}")
    else:
        run = RunFolder(path.resolve())
        checkpoints = complete_checkpoints(run.checkpoints)
    if not run.job_file.is_file():
        raise RequestError(f"{path} is neither a run's folder nor one of its checkpoints")
    if not (checkpoints or _is_stopped(run)):
        raise RequestError(f"{path} holds no complete checkpoint to resume from; to start a new run: --resume never")
    if is_taken(run) or not run.claim():
        raise RequestError(
            f"{path} is still running, or waiting in a queue{_holder_of(run)}; stop it first, or start a "
            "new run: --resume never"
        )
    differing = differing_fields(job, load_kept_job(run.job_file))
    if differing:
        raise RequestError(
            f"the job differs from that of {path} in {', '.join(differing)}, which would change its numbers; use the "
            f"same values, or --resume never"
        )
    return _resume(job, run, checkpoints, "as asked", insists=is_checkpoint)


def _holder_of(run: RunFolder) -> str:
    """Who holds a run by a file, and what to do where that process has ended, in brackets; empty where nobody does."""
    held = holder(run.path)
    return "" if held is None else f" ({held})"


def _new(job: Job, reason: str) -> Decision:
    run = RunFolder.create(job)
    run.claim()
    return Decision(run, None, reason, "first")


def _resume(job: Job, run: RunFolder, checkpoints: list[Path], reason: str, insists: bool = False) -> Decision:
    """Resume from the last of `checkpoints` that is not seen to be damaged; the ranks look at it more closely.

    Without any, from the beginning: the run was stopped before it saved.
    """
    checkpoint, damaged = _sound(run, checkpoints, insists) if checkpoints else (None, {})
    run.write_job(job)
    run.prepared_file.unlink(missing_ok=True)
    forget_failures(run)
    for folder in (run.path, run.logs):
        remove_leftovers(folder)
    passed = [path.name for path in incomplete_checkpoints(run.checkpoints)]
    skipped = f"; skipped the incomplete {', '.join(passed)}" if passed else ""
    skipped += "".join(f"; skipped {path.name}, which is damaged: {fault}" for path, fault in damaged.items())
    for path in damaged:
        set_aside(path)
    whence = "the beginning: it was stopped before its first checkpoint" if checkpoint is None else checkpoint.name
    return Decision(run, checkpoint, f"resuming from {whence} ({reason}){skipped}", insists=insists)


def _is_stopped(run: RunFolder) -> bool:
    result = run.result()
    return result is not None and result.get("status") == "stopped"


def _sound(run: RunFolder, checkpoints: list[Path], insists: bool) -> tuple[Path, dict[Path, str]]:
    """The last checkpoint that is not seen to be damaged, and what is wrong with later ones."""
    damaged: dict[Path, str] = {}
    for checkpoint in reversed(checkpoints):
        fault = quick_fault(checkpoint)
        if fault is None:
            return checkpoint, damaged
        damaged[checkpoint] = fault
    raise DamagedCheckpoint(damage_of(run, damaged, insists))


def damage_of(run: RunFolder, damaged: Mapping[Path, str], insists: bool) -> str:
    """Which checkpoints are damaged, that none takes their place, and which others there are.

    insists: the damaged one was named by the user
    """
    found = "; ".join(f"{path} is damaged: {fault}" for path, fault in damaged.items())
    others = [path.name for path in complete_checkpoints(run.checkpoints) if path not in damaged]
    there = f"the others are {', '.join(others)}" if others else "there is no other"
    fix = f"resume from one of them: --resume {run.checkpoints}/NAME, or " if others else ""
    none = "" if insists else "there is no earlier one to resume from; "
    return f"{found}; {none}{there}; {fix}start a new run: --resume never"


def _differences(one: object, other: object, path: str) -> list[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted({*one, *other})
        return [found for key in keys for found in _differences(one.get(key), other.get(key), f"{path}.{key}")]
    return [] if one == other else [path.removeprefix(".")]


def _listed(run: RunFolder) -> str:
    return ", ".join(path.name for path in complete_checkpoints(run.checkpoints)) or "none"
