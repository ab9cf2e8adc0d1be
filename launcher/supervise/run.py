"""A run on this machine: its folder is found or made, its data prepared, its ranks run, and run again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from launcher.display.live import Display
from launcher.errors import Stopped
from launcher.job.requests import PreparationRequest
from launcher.job.schema import Job
from launcher.plan.plan import Plan
from launcher.plan.planner import make_plan
from launcher.run.attempts import Attempt, begin_attempt
from launcher.run.environment import write_environment
from launcher.run.folder import RunFolder
from launcher.run.results import mark_stopped
from launcher.run.resuming import decide_run, with_remembered_limit
from launcher.supervise.failure import RankFailed
from launcher.supervise.fork_server import fork_server
from launcher.supervise.processes import run_ranks
from launcher.supervise.requests import ask_ranks
from launcher.supervise.restarts import restart
from launcher.supervise.stop_requests import StopRequests
from launcher.supervise.watchdog import Watchdog
from launcher.tracking.starting import tracked


@dataclass(frozen=True)
class Begun:
    """A run whose ranks are about to be started, and why it is this run."""

    folder: RunFolder
    plan: Plan
    start: Attempt
    reason: str

    def __str__(self) -> str:
        plan = self.plan
        return (
            f"{self.folder.path}: {self.reason}\n"
            f"{plan.processes} × {plan.threads} threads, {plan.spread} on {plan.device}, {plan.split}"
        )


def begin_run(job: Job, job_file: Path, resume: str) -> Begun:
    """Plan, find or make the run's folder, and count the start. Raises RequestError."""
    plan = make_plan(job, job_file)
    decision = decide_run(job, resume)
    folder = decision.folder
    plan = with_remembered_limit(plan, job, job_file, decision)
    if not job_file.is_file():  # the job was built in Python
        plan = replace(plan, commands=tuple(_with_file(command, job_file, folder) for command in plan.commands))
    folder.write_plan(plan)
    write_environment(folder)
    return Begun(
        folder,
        plan,
        begin_attempt(folder, decision.cause, decision.checkpoint, insists=decision.insists),
        decision.reason,
    )


def run_to_the_end(begun: Begun, job: Job, job_file: Path, display: Display, requests: StopRequests) -> None:
    """Prepare the data and run the ranks, again after a failure that may pass. Raises RunFailed or Stopped."""
    folder, plan, start = begun.folder, begun.plan, begun.start
    requests.watch(folder.stop_file)
    with _marked_where_stopped(folder), tracked(folder, job), _ranks_forked(plan):
        if plan.processes > 1:
            prepare_data(folder, plan, display.refresh, requests)
        while True:
            try:
                _run(folder, plan, start, job, display, requests)
                break
            except RankFailed as failed:
                start = restart(folder, job, job_file, failed)
                plan = folder.plan()


@contextmanager
def _marked_where_stopped(folder: RunFolder) -> Iterator[None]:
    """A stop before the first step is one too, though no rank could write what the run came to."""
    try:
        yield
    except Stopped:
        mark_stopped(folder)
        raise


def _ranks_forked(plan: Plan) -> AbstractContextManager[None]:
    """The ranks share what they import where there are several: the one that prepares the data is another."""
    return fork_server(plan.threads) if plan.processes > 1 and plan.device == "cpu" else nullcontext()


def _with_file(command: tuple[str, ...], job_file: Path, folder: RunFolder) -> tuple[str, ...]:
    return tuple(str(folder.job_file) if word == str(job_file) else word for word in command)


def prepare_data(folder: RunFolder, plan: Plan, watch: Callable[[], None], requests: StopRequests) -> None:
    """One process prepares the data, with all cores, before any rank starts."""
    request = PreparationRequest(folder=str(folder.path))
    ask_ranks(request, threads=plan.threads * plan.processes, watch=watch, requests=requests)


def watchdog_of(folder: RunFolder, start: Attempt, job: Job) -> Watchdog:
    """Watches for ranks that hang, as patiently as the job says."""
    return Watchdog(folder, start.count, 60 * job.launch.patience, 60 * job.launch.timeout)


def _run(folder: RunFolder, plan: Plan, start: Attempt, job: Job, display: Display, requests: StopRequests) -> None:
    run_ranks(
        folder.path,
        processes=plan.processes,
        threads=plan.threads,
        folder=folder,
        watch=display.refresh,
        requests=requests,
        watchdog=watchdog_of(folder, start, job),
    )


@contextmanager
def shown(folder: RunFolder, quietly: bool = False) -> Iterator[Display]:
    """Inside, the run's events are displayed, or (`quietly`) nothing is, since another node does it."""
    display = Display(folder, quietly=quietly)
    try:
        yield display
    finally:
        display.close()
