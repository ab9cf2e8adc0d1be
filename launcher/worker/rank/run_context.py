"""The run that this rank belongs to: its job, plan, folder and world."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from launcher.display.live import follow, print_outcome
from launcher.errors import AdaptrunError, ExitCode, RequestError, RunFailed, Stopped
from launcher.job.reading.job_file import load_job, read_job
from launcher.job.schema import Job
from launcher.plan.hardware import find_hardware
from launcher.plan.plan import Plan
from launcher.plan.planner import device_for, make_plan
from launcher.run.attempts import Attempt, Fence, begin_attempt
from launcher.run.environment import write_environment
from launcher.run.events import EventLog, Phase
from launcher.run.folder import RunFolder
from launcher.run.resuming import decide_run, with_remembered_limit
from launcher.tracking.starting import tracked
from launcher.worker.rank.process import RankProcess
from launcher.worker.rank.world import World


@dataclass(frozen=True)
class RunContext:
    """One attempt of a run, on a rank.

    log: log of events; silent on all ranks but the first
    start: the attempt's number, and the checkpoint that it resumes from
    """

    job: Job
    plan: Plan
    folder: RunFolder
    world: World
    log: EventLog
    start: Attempt

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint that this attempt resumes from, None for a new run."""
        return None if self.start.checkpoint is None else Path(self.start.checkpoint)

    @property
    def fence(self) -> Fence:
        """Prevents this attempt from writing after a later one has begun."""
        return Fence(self.folder, self.start.count)

    def enter(self, phase: str, detail: str = "") -> None:
        """Log the beginning of a phase."""
        self.world.heartbeat.enter(phase)
        self.log.write(Phase(name=phase, detail=detail))


@contextmanager
def joined_run(process: RankProcess, target: Path, sets: Sequence[str], resume: str) -> Iterator[RunContext]:
    """Join the world of a planned run, or of the one that rank 0 makes of a job file started by hand."""
    with ExitStack() as stack:
        if process.folder is not None:
            folder = process.folder
            job, plan = folder.job(), folder.plan()
            world = stack.enter_context(
                World.at(process.place, plan.device, process.heartbeat).joined(job.launch.timeout)
            )
            start = start_of(process, folder)
        else:
            asked = read_job(target, sets)
            device = device_for(asked, target, find_hardware())
            world = stack.enter_context(World.at(process.place, device, process.heartbeat).joined(asked.launch.timeout))
            folder = _run_of_rank_0(world, lambda: _make_run(target, sets, world, resume))
            job, plan = folder.job(), folder.plan()
            start = Attempt.read(folder) or Attempt()
            process.folder, process.start = folder, start.count
            terminal = process.keep_output()
            if world.is_first:
                stack.enter_context(_shown(folder, terminal))
                stack.enter_context(tracked(folder, job))
        if world.size != plan.world:
            raise RuntimeError(f"the plan is for {plan.world} processes, and {world.size} are running")
        world = replace(world, arrangement=plan.mesh)
        fence = Fence(folder, start.count)
        log = EventLog(folder.events_file if world.is_first else None, fence.check_now_and_then)
        stack.callback(log.close)
        if world.is_first:
            process.stop.watch(folder.stop_file, start.ends)
        yield RunContext(job, plan, folder, world, log, start)


def start_of(process: RankProcess, folder: RunFolder) -> Attempt:
    """The attempt that this rank belongs to. Raises Superseded if a later one began during the rendezvous."""
    start = Attempt.read(folder) or Attempt()
    if process.start:
        Fence(folder, process.start).check()
    return start


def _run_of_rank_0(world: World, make: Callable[[], RunFolder]) -> RunFolder:
    """The folder that rank 0 makes. Raises rank 0's error there, and one with the same exit code on the others."""
    if not world.is_first:
        path, failed = world.from_first(None), world.from_first(None)
        if path:
            return RunFolder(Path(path))
        alike = next((error for error in (RequestError, Stopped) if str(int(error.exit_code)) == failed), RunFailed)
        raise alike("rank 0 could not start the run; see its error message")
    try:
        folder = make()
    except Exception as error:
        world.from_first("")
        world.from_first(str(int(error.exit_code if isinstance(error, AdaptrunError) else ExitCode.FAILED)))
        raise
    world.from_first(str(folder.path))
    world.from_first("")
    return folder


def _make_run(job_file: Path, sets: Sequence[str], world: World, resume: str) -> RunFolder:
    """Check and plan the job, and make the folder, or resume an unfinished run. Raises RequestError."""
    job = load_job(job_file, sets)
    plan = make_plan(job, job_file, processes=world.size)
    decision = decide_run(job, resume)
    folder = decision.folder
    folder.write_plan(with_remembered_limit(plan, job, job_file, decision))
    write_environment(folder)
    begin_attempt(folder, decision.cause, decision.checkpoint, insists=decision.insists)
    print(f"{folder.path}: {decision.reason}", flush=True)
    return folder


@contextmanager
def _shown(folder: RunFolder, terminal: TextIO) -> Iterator[None]:
    """Show a run started by hand on rank 0's terminal, as the launcher would."""
    done = threading.Event()
    thread = threading.Thread(target=follow, args=(folder, done, terminal), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=5)
    print_outcome(folder, terminal)
