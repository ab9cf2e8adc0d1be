"""What is wrong with a job, before it is started: in its file at once, with the modules of its model in seconds."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from launcher.data.columns import check_columns, left_out_of
from launcher.errors import RunFailed, Stopped
from launcher.job.paths import taken_for_hub_ids
from launcher.job.reading import load_job
from launcher.job.schema import Job
from launcher.plan.deepspeed_config import check_deepspeed
from launcher.plan.plan import Plan
from launcher.run.folder import RunFolder, temporary_folder
from launcher.start.failure import RankFailed
from launcher.start.processes import run_ranks


def check_job_file(file: Path, sets: Sequence[str], as_json: bool) -> None:
    """Say what a sound job file means. Raises RequestError with what is wrong with it, or with the files it names."""
    job = load_job(file, sets)
    if job.engine.name == "deepspeed":
        check_deepspeed(job, file)
    check_columns(job)
    if as_json:
        print(json.dumps(job.as_dict(), indent=2))
        return
    for place in taken_for_hub_ids(job):
        print(f"{place}: nothing of that name is here, so it is taken for an id of the Hugging Face hub")
    for line in left_out_of(job):
        print(line)
    print(f"{file}: no problem found")


def check_models(planned: Sequence[tuple[str, Job, Plan]]) -> None:
    """Ask a process that may import torch whether jobs can be had with the modules of their models.

    Only those are asked about whose options depend on that, since the import takes seconds.

    planned: each with what tells it from the others, empty where there is one
    Raises RequestError, Stopped.
    """
    asked: dict[str, tuple[str, Job, Plan]] = {}
    for name, job, plan in planned:
        if _asks_for_modules(job):
            asked.setdefault(_what_matters(job, plan), (name, job, plan))
    if not asked:
        return
    try:
        with temporary_folder() as folder:
            arguments = [str(folder.path)]
            for number, (name, job, plan) in enumerate(asked.values()):
                run = RunFolder(folder.path / str(number))
                run.path.mkdir()
                run.write_job(job)
                run.write_plan(plan)
                arguments += [str(run.path), name]
            run_ranks("launcher.worker.check", arguments, processes=1, threads=1, folder=folder, watch=lambda: None)
    except Stopped:
        raise Stopped("stopped; nothing was made or queued") from None
    except RunFailed as error:  # nothing is wrong with the request for all that is known
        told = str(error)
        if isinstance(error, RankFailed):
            told = f"{error.failure.error}: {error.failure.message} (more in {error.folder.failure_file})"
        print(f"the model could not be looked at before the run, which will do so: {told}", file=sys.stderr)


def _asks_for_modules(job: Job) -> bool:
    """Whether something that the job asks for can be had with some models and not with others."""
    adapt = job.adapt
    if adapt.method == "lora" and (adapt.quantised or adapt.dora):
        return False  # they are made of the weights, all of which would be read
    options = (adapt.probe, adapt.unfreeze, adapt.average, adapt.interpolate, adapt.distill, job.engine.block)
    return bool(
        adapt.method != "finetune"
        or any(option is not None for option in options)
        or adapt.layer_decay < 1
        or adapt.lr_factors
        or job.model.frozen
        or job.train.activation_checkpointing
    )


def _what_matters(job: Job, plan: Plan) -> str:
    """The same for jobs of which one answer is that of the other, such as those that differ in the seed."""
    train = {"loss", "max_length", "max_seconds", "activation_checkpointing", "packing"}
    told = job.model_dump_json(
        include={"model": True, "task": True, "adapt": True, "train": train, "engine": {"block"}}
    )
    return f"{told} {bool(job.labelled_sets)} {plan.total_steps}"
