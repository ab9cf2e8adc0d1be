"""`adaptrun soup`: the mean of several runs' models, those left out that make it worse."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from launcher.commands.evaluate import check_places, trusted_files, worthwhile
from launcher.data.sources import count_rows
from launcher.errors import RequestError
from launcher.job.home import DEFAULT_CACHE, usable_cache
from launcher.job.pretrained import check_model_files, find_pretrained, own_code, read_config
from launcher.job.requests import EvaluationRequest, SoupRequest
from launcher.job.schema import Job, Model
from launcher.plan.hardware import find_hardware
from launcher.run.folder import RunFolder
from launcher.supervise.requests import ask_ranks


def soup_runs(
    runs: Sequence[Path],
    output: Path,
    dtype: str,
    processes: int | None,
    as_json: bool,
    trusted: Sequence[str] = (),
) -> None:
    """Mix, judge by the first run's job, write the model folder, say what became of each run.

    trusted: files of the user's own whose code the runs may name
    Raises RequestError where the runs do not go together, ModelError and RunFailed.
    """
    if output.exists():
        raise RequestError(f"{output} exists already; name a new folder, or remove this one")
    job, models = _checked(runs, trusted)
    hardware = find_hardware()
    data = job.data.validation[job.deciding_set or ""]
    check_places(data, naming="split: in the job of the first run,")
    ranks = processes or max(1, len(hardware.gpus) or worthwhile(hardware.cores, count_rows(data)))
    request = SoupRequest(
        job=job,
        evaluation=EvaluationRequest(
            model=models[0],
            data=data,
            batch_size=job.validation.batch_size,
            device="cuda" if hardware.gpus and job.launch.device != "cpu" else "cpu",
            cache=usable_cache(DEFAULT_CACHE, None),
        ),
        models=tuple(model.pretrained for model in models),
        output=str(output.resolve()),
        dtype=dtype,
    )
    answer = ask_ranks(request, processes=ranks, threads=max(1, hardware.cores // ranks))
    for note in answer.notes:
        print(note, file=sys.stderr)
    if as_json:
        runs_found = answer.model_dump(mode="json")["runs"]
        print(json.dumps({"metric": job.validation.metric, "set": job.deciding_set, "runs": runs_found}, indent=2))
        return
    print(f"{job.validation.metric} on {job.deciding_set}: of each alone, and of its mean with those kept so far")
    for one in answer.runs:
        print(f"{one.alone:10.4f} {one.together:10.4f}  {'kept' if one.kept else 'left out':8}  {one.folder}")
    print(f"{output}: the mean of {sum(one.kept for one in answer.runs)} models, read back and compared")


def _checked(runs: Sequence[Path], trusted: Sequence[str]) -> tuple[Job, list[Model]]:
    """The first run's job, and the model folders. Nothing of the job but its data and its metric is used."""
    if len(runs) < 2:
        raise RequestError("a soup needs two runs or more")
    if not RunFolder(runs[0]).job_file.is_file():
        raise RequestError(
            f"{runs[0]} is no run's folder; the first must be a run, whose job names the validation data"
        )
    job = RunFolder(runs[0].resolve()).job()
    if job.deciding_set not in job.data.validation:
        raise RequestError(
            f"the job of {runs[0]} has no validation set to evaluate a soup on; add data.validation to it"
        )
    models, labels, files = list[Model](), list[object](), trusted_files(trusted)
    for run in runs:
        model = Model(pretrained=str(run.resolve()), trust_code=files)
        pretrained = find_pretrained(model)
        check_model_files(pretrained, model)
        own_code(pretrained, model)
        if pretrained.kind != "folder":
            raise RequestError(
                f"{run} holds adapters, which cannot be averaged; train it with adapt.adapters.merge: true"
            )
        config = read_config(pretrained) or {}
        models.append(model.model_copy(update={"pretrained": pretrained.location}))
        labels.append(config.get("id2label"))
        if labels[-1] != labels[0]:
            raise RequestError(f"{run} has other labels than {runs[0]}, so their heads cannot be averaged")
    return job, models
