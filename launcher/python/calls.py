"""`train`, `evaluate` and `predict`, as the commands of these names do it. Errors are those of `launcher.errors`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from launcher.job.data import Source
from launcher.job.reading import check_section
from launcher.python.apart import Child
from launcher.python.job import Job
from launcher.run.display import Display, print_outcome
from launcher.run.folder import RunFolder
from launcher.run.results import Evaluation, Result

Place = str | PathLike[str]
Data = Place | Mapping[str, Any]
"""A file, a folder saved by `datasets` or a hub id, or the keys that name one and its columns in the job file."""


def train(job: Job, *, resume: Place = "auto", quiet: bool = False) -> Result:
    """Fine-tune, as `adaptrun train` does: validating on the way, with as many processes as the job says.

    resume: `auto`, `never`, or the folder of a run or of one of its checkpoints
    quiet: show nothing; else what the command shows, in a notebook too
    Raises RequestError and its kinds, RunFailed and its kinds, and Stopped after Ctrl-C, once all is saved.
    """
    with Child("train", job=job.as_dict(), job_file=str(job.file), resume=fspath(resume)) as child:
        begun = child.wait_for("begun")
        folder = RunFolder(Path(begun["path"]))
        if not quiet:
            print(begun["text"], flush=True)
        display = Display(folder, quietly=quiet, start=begun["position"])
        try:
            child.wait(display.refresh)
        finally:
            display.close()
    if not quiet:
        print_outcome(folder)
    return Result.read(folder.result_file)


def evaluate(model: Place, data: Data, *, batch_size: int = 32, processes: int | None = None) -> Evaluation:
    """Measure a model folder or a finished run on labelled data, every sample once, as `adaptrun evaluate` does.

    batch_size: samples of full length at once; processes: as for a job where None
    Raises RequestError and its kinds, RunFailed, and Stopped after Ctrl-C.
    """
    asked = _asked(model, data, batch_size, processes)
    with Child("evaluate", **asked) as child:
        child.wait()
        found = child.answer()
    intervals = {metric: (low, high) for metric, (low, high) in found["intervals"].items()}
    return Evaluation(found["samples"], found["metrics"], intervals, found["seconds"])


def predict(model: Place, data: Data, *, batch_size: int = 32, processes: int | None = None) -> list[dict[str, Any]]:
    """The model's answer for each row of the data, in their order, as `adaptrun predict` writes it.

    Raises RequestError and its kinds, RunFailed, and Stopped after Ctrl-C.
    """
    asked = _asked(model, data, batch_size, processes)
    with Child("predict", **asked) as child:
        child.wait()
        file = Path(child.answer()["output"])
        with file.open(encoding="utf-8", newline="\n") as lines:  # an answer may hold other ends of lines
            return [json.loads(line) for line in lines]


def _asked(model: Place, data: Data, batch_size: int, processes: int | None) -> dict[str, Any]:
    source = check_section(data if isinstance(data, Mapping) else {"source": data}, Source)
    return {
        "model": fspath(model),
        "source": source.model_dump(mode="json"),
        "batch_size": batch_size,
        "processes": processes,
    }
