"""The run that this rank belongs to: what was asked, what was planned, where it goes, who takes part."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from launcher.display.live import follow, print_outcome
from launcher.job.reading.job_file import load_job
from launcher.job.schema import Job
from launcher.plan.plan import Plan
from launcher.plan.planner import make_plan
from launcher.run.attempts import Attempt, Fence, begin
from launcher.run.environment import write_environment
from launcher.run.events import EventLog, Phase
from launcher.run.folder import RunFolder
from launcher.run.resuming import decide_run, with_remembered_limit
from launcher.tracking.starting import tracked
from launcher.worker.rank.process import RankProcess
from launcher.worker.rank.world import World


@dataclass(frozen=True)
class RunContext:
    """One start of a run, as a rank sees it.

    log: where events go; silent on all ranks but the first
    start: its count, and what it goes on from
    """

    job: Job
    plan: Plan
    folder: RunFolder
    world: World
    log: EventLog
    start: Attempt

    @property
    def checkpoint(self) -> Path | None:
        """What this start goes on from, None from the beginning."""
        return None if self.start.checkpoint is None else Path(self.start.checkpoint)

    @property
    def fence(self) -> Fence:
        """Keeps this start from writing once a later one has begun."""
        return Fence(self.folder, self.start.count)

    def enter(self, phase: str, detail: str = "") -> None:
        """Say that a phase begins."""
        self.world.heartbeat.enter(phase)
        self.log.write(Phase(name=phase, detail=detail))


@contextmanager
def joined_run(process: RankProcess, target: Path, sets: Sequence[str], resume: str | None) -> Iterator[RunContext]:
    """Join the world of a planned run, or make the plan here for a job file started by hand."""
    with ExitStack() as stack:
        if process.folder is not None:
            folder = process.folder
            job, plan = folder.job(), folder.plan()
            world = stack.enter_context(
                World.at(process.place, plan.device, process.heartbeat).joined(job.launch.timeout)
            )
            start = start_of(process, folder)
        else:
            job = load_job(target, sets)
            plan = make_plan(job, target, processes=process.place.size)
            world = stack.enter_context(
                World.at(process.place, plan.device, process.heartbeat).joined(job.launch.timeout)
            )
            folder = _make_run(job, target, plan, world, resume or "auto")
            plan = folder.plan()  # rank 0's: another machine may have been counted differently
            start = Attempt.read(folder) or Attempt()
            process.folder, process.start = folder, start.count
            terminal = process.keep_output()
            if world.is_first:
                stack.enter_context(_shown(folder, terminal))
                stack.enter_context(tracked(folder, job))
        if world.size != plan.world:
            raise RuntimeError(f"the plan is for {plan.world} processes, and {world.size} run")
        world = replace(world, arrangement=plan.mesh)
        fence = Fence(folder, start.count)
        log = EventLog(folder.events_file if world.is_first else None, fence.check_now_and_then)
        stack.callback(log.close)
        if world.is_first:
            process.stop.watch(folder.stop_file, start.ends)
        yield RunContext(job, plan, folder, world, log, start)


def start_of(process: RankProcess, folder: RunFolder) -> Attempt:
    """The start that this rank belongs to. Raises Superseded where a later one began while the ranks were meeting."""
    start = Attempt.read(folder) or Attempt()
    if process.start:
        Fence(folder, process.start).check()
    return start


def _make_run(job: Job, job_file: Path, plan: Plan, world: World, resume: str) -> RunFolder:
    """Rank 0 makes the folder, or takes up an unfinished one, and tells the others."""
    said = None
    if world.is_first:
        decision = decide_run(job, resume)
        folder = decision.folder
        folder.write_plan(with_remembered_limit(plan, job, job_file, decision))
        write_environment(folder)
        begin(folder, decision.cause, decision.checkpoint, insists=decision.insists)
        print(f"{folder.path}: {decision.reason}", flush=True)
        said = str(folder.path)
    return RunFolder(Path(world.from_first(said) or ""))


@contextmanager
def _shown(folder: RunFolder, terminal: TextIO) -> Iterator[None]:
    """Rank 0 of a run started by hand shows what the launcher would have shown."""
    done = threading.Event()
    thread = threading.Thread(target=follow, args=(folder, done, terminal), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=5)
    print_outcome(folder, terminal)
