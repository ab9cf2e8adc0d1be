"""`adaptrun submit`: the same job as a batch job, checked before it is queued."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from launcher.cluster import scheduler
from launcher.cluster.batch_jobs import current_job, jobs_file, script_file
from launcher.cluster.profile import Profile, load_profile
from launcher.cluster.script import render_script
from launcher.cluster.variants import variants
from launcher.commands.check import check_models
from launcher.errors import JobError, Problem, RequestError
from launcher.job.reading.job_file import load_job
from launcher.job.schema import Job
from launcher.plan.plan import Plan
from launcher.plan.planner import make_plan
from launcher.run.attempts import begin_attempt
from launcher.run.environment import write_environment
from launcher.run.events import EventTail, Saved
from launcher.run.folder import RunFolder, find_latest_run
from launcher.run.resuming import decide_run, with_remembered_limit

NOTHING: Mapping[str, object] = {}
SAVES_IN_A_LIMIT = 4
"""A time limit holds at least so many saves, or most of the time goes into them."""


def submit_job(
    job_file: Path,
    sets: Sequence[str],
    profile_file: Path,
    each: Sequence[str],
    resume: str,
    after: str | None,
    options: Mapping[str, object] = NOTHING,
) -> None:
    """Plan for the cluster's nodes, make the run's folder, queue. Raises RequestError and its kinds.

    options: of sbatch, which override the profile
    """
    profile = load_profile(profile_file, options)
    name, jobs, plans = _planned(job_file, sets, profile, each)
    depends = None if after is None else _job_of(Path(after))
    scheduler.try_script(_draft(name, jobs, profile))  # it would queue for ever what no node can run
    runs: list[RunFolder] = []
    for job, plan in zip(jobs, plans, strict=True):
        runs.append(_run_of(job, job_file, plan, profile, resume, taken=tuple(runs)))
    script = render_script(name, [run.path for run in runs], profile, depends)
    for run in runs:
        script_file(run).write_text(script, encoding="utf-8")
    number = scheduler.submit(script_file(runs[0]))
    for index, run in enumerate(runs):
        one = number if len(runs) == 1 else f"{number}_{index}"
        with jobs_file(run).open("a", encoding="utf-8") as file:
            file.write(f"{one}\n")
        print(f"job {one}: {run.path}")
    print(f"{plans[0].nodes} nodes × {plans[0].processes} ranks, {plans[0].spread} on {plans[0].device}")
    print(f"next: adaptrun status {runs[0].path}")


def show_script(
    job_file: Path,
    sets: Sequence[str],
    profile_file: Path,
    each: Sequence[str],
    ask: bool,
    options: Mapping[str, object] = NOTHING,
) -> None:
    """Print the script that would be queued, or (`ask`) what the scheduler says of it; nothing is queued or kept."""
    profile = load_profile(profile_file, options)
    name, jobs, _ = _planned(job_file, sets, profile, each)
    script = _draft(name, jobs, profile)
    print(scheduler.try_script(script).strip() if ask else script, end="\n" if ask else "")


def _planned(
    job_file: Path, sets: Sequence[str], profile: Profile, each: Sequence[str]
) -> tuple[str, list[Job], list[Plan]]:
    """The name of the whole, and the jobs of an array, or the one, each checked in all that can be before it runs.

    Raises RequestError.
    """
    found, name = [], None
    for variant in variants(each):
        job = load_job(job_file, [*sets, *variant.sets])
        name = name or job.name
        job = job.model_copy(update={"name": variant.name(job.name)})
        found.append((", ".join(variant.sets), job, plan_for(job, job_file, profile)))
    check_models(found)
    return name or "", [job for _, job, _ in found], [plan for _, _, plan in found]


def _draft(name: str, jobs: Sequence[Job], profile: Profile) -> str:
    """The script, with folders in it that are not made."""
    places = [job.runs_folder.absolute() / f"{job.name}-{number}" for number, job in enumerate(jobs)]
    return render_script(name, places, profile)


def plan_for(job: Job, job_file: Path, profile: Profile) -> Plan:
    """The plan on the profile's nodes. Raises JobError where they cannot do what the job asks."""
    wanted = profile.processes_per_node
    processes = profile.gpus_per_node or None if wanted == "auto" else wanted
    if wanted != "auto" and profile.gpus_per_node and wanted > profile.gpus_per_node:
        raise RequestError(
            f"processes_per_node: {wanted} ranks need a GPU each, and the profile's nodes have {profile.gpus_per_node}"
        )
    if job.launch.device == "cpu" and wanted == "auto":
        processes = None
    plan = make_plan(job, job_file, profile.hardware, processes, profile.nodes)
    if plan.world > job.train.global_batch_size:
        raise _refusal(
            job_file,
            "train.global_batch_size",
            f"{job.train.global_batch_size} samples per step are too few for {plan.world} ranks",
            f"train.global_batch_size: {plan.world}, or fewer nodes",
        )
    return replace(plan, commands=(("sbatch", script_file(RunFolder(Path("."))).name),))


def _run_of(
    job: Job, job_file: Path, plan: Plan, profile: Profile, resume: str, taken: Sequence[RunFolder]
) -> RunFolder:
    """The folder of a new run, or of the unfinished one that is resumed; refused while a job of it lives.

    taken: the runs that other jobs of the same array have
    """
    decision = decide_run(job, resume, is_taken=lambda run: run in taken or current_job(run) is not None)
    run = decision.folder
    plan = with_remembered_limit(plan, job, job_file, decision)
    check_time(run, profile)
    run.write_plan(plan)
    write_environment(run)
    begin_attempt(run, decision.cause, decision.checkpoint, insists=decision.insists)
    return run


def check_time(run: RunFolder, profile: Profile) -> None:
    """Raise RequestError where the time limit holds too few saves of the length that this run measured."""
    seconds = max((e.seconds for e in EventTail(run.events_file).read() if isinstance(e, Saved)), default=0.0)
    if SAVES_IN_A_LIMIT * seconds > profile.seconds or 2 * seconds > profile.signal_seconds:
        raise RequestError(
            f"saving a checkpoint of {run.path} took {seconds:.0f} s: the time limit of "
            f"{profile.seconds} s and signal_seconds ({profile.signal_seconds}) are too short for it; raise them"
        )


def _job_of(path: Path) -> str | None:
    """The number of the job to wait for; None where the run has already gone well."""
    run = find_latest_run(path)
    job = current_job(run)
    if job is None and not run.is_done():
        raise RequestError(f"{path} has no job in the queue to wait for; submit it first")
    return job


def _refusal(job_file: Path, path: str, message: str, fix: str) -> JobError:
    return JobError([Problem(str(job_file), path, message, fix)])
