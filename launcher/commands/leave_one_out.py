"""`adaptrun leave-one-out`: how well is a domain understood by a model that has never seen it?

A job with several training sets is run once for each of them, on the others. The figure of a set is that of the
validation set of the same name, or else of its own training samples, none of which were trained on. It never decides
which checkpoint is taken: other validation sets do, and without any the last one is.

If a run was stopped, the same command resumes it. Domains before it are finished, and are not run again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

from launcher.commands.check import check_models
from launcher.commands.train import train_job
from launcher.display.live import with_interval
from launcher.errors import RequestError
from launcher.job.rules.general import broken_rules
from launcher.job.schema import Job
from launcher.plan.planner import make_plan
from launcher.run.folder import RunFolder
from launcher.run.results import Result, SetResult
from launcher.run.resuming import finished_run
from launcher.terminal import print_table, wide_console


@dataclass(frozen=True)
class LeftOut:
    """A domain that was left out, and the run that did so."""

    domain: str
    run: str
    found: SetResult


def leave_one_out(job: Job, job_file: Path, resume: str, as_json: bool) -> None:
    """Run the job once for each training set; print what became of each. Raises RequestError where there is one."""
    jobs = {domain: without(job, domain) for domain in job.data.train}
    found = []
    done = _finished(jobs) if resume == "auto" else {}
    with redirect_stdout(sys.stderr) if as_json else nullcontext():  # where the answer goes nothing else may
        for domain, one in jobs.items():
            run = done.get(domain)
            if run is None:
                run = train_job(one, job_file, resume)
            else:
                print(f"{run.path}: finished before (to train it again: --resume never)", flush=True)
            found.append(LeftOut(domain, str(run.path), Result.read(run.result_file).sets[domain]))
    if as_json:
        print(json.dumps([{"domain": f.domain, "run": f.run, **vars(f.found)} for f in found], indent=2))
    else:
        _print_table(found, job.validation.metric)


def show_plans(job: Job, job_file: Path, as_json: bool) -> None:
    """Print the plan of each run, and start none. Raises RequestError for what could not run."""
    jobs = {domain: without(job, domain) for domain in job.data.train}
    plans = {domain: replace(make_plan(one, job_file), commands=()) for domain, one in jobs.items()}
    check_models([(f"without {domain}", jobs[domain], plan) for domain, plan in plans.items()])
    if as_json:
        print(json.dumps({domain: json.loads(plan.as_json()) for domain, plan in plans.items()}, indent=2))
    else:
        print("\n\n".join(map(str, plans.values())))


def _finished(jobs: Mapping[str, Job]) -> dict[str, RunFolder]:
    """The runs of the domains before the first unfinished one; none where all are finished: a new beginning."""
    found: dict[str, RunFolder] = {}
    for domain, job in jobs.items():
        run = finished_run(job)
        if run is None:
            return found
        found[domain] = run
    return {}


def without(job: Job, domain: str) -> Job:
    """The job on all training sets but one, judged on that one. Raises RequestError where that cannot be."""
    train = {name: source for name, source in job.data.train.items() if name != domain}
    if not train:
        raise RequestError(
            "leave-one-out needs several training sets: data.train: {films: films.csv, shops: shops.csv}"
        )
    others = {name: source for name, source in job.data.validation.items() if name != domain}
    judged = {**others, domain: job.data.validation.get(domain, job.data.train[domain])}
    weights = job.data.mixing.weights
    mixing = job.data.mixing.model_copy(
        update={"weights": None if weights is None else {name: weights[name] for name in train}}
    )
    if len(train) == 1:
        mixing = type(mixing)()
    decides = job.validation.set if job.validation.set in others else next(iter(others), None)
    made = job.model_copy(
        update={
            "name": f"{job.name[: 79 - len(domain) - len('-without')]}-without-{domain}",
            "data": job.data.model_copy(update={"train": train, "validation": judged, "mixing": mixing}),
            "validation": job.validation.model_copy(update={"set": decides or domain}),
            "verdict": job.verdict.model_copy(update={"gate": False}),  # one that is not adopted stops no other
            "checkpoint": job.checkpoint.model_copy(update={} if decides else {"result": "last"}),
        }
    )
    wrong = broken_rules(made)
    asks = (job.train.early_stopping is not None, job.train.schedule.name == "plateau", job.adapt.interpolate == "auto")
    if decides is None and any(asks):
        message = (
            f"{domain} is left out, and it is the only set that early stopping, the plateau "
            "schedule or adapt.interpolate could use"
        )
        wrong.append((("data", "validation"), message, "add validation sets of the domains"))
    if wrong:
        path, message, fix = wrong[0]
        raise RequestError(f"without {domain}: {'.'.join(path)}: {message}{f'; {fix}' if fix else ''}")
    return made


def _print_table(found: list[LeftOut], metric: str) -> None:
    from rich.table import Table

    table = Table(title=f"{metric} on a domain that was left out, with 95 % interval", title_justify="left")
    for heading in ("domain", "samples", "pretrained", "trained on the others"):
        table.add_column(heading, justify="left" if heading == "domain" else "right", no_wrap=True)
    for one in found:
        sides = ((one.found.before, one.found.before_interval), (one.found.after, one.found.after_interval))
        cells = [with_interval(metrics[metric], intervals[metric]) for metrics, intervals in sides]
        table.add_row(one.domain, str(one.found.samples), *cells)
    print_table(table, wide_console())
