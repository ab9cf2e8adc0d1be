"""`train`, `evaluate` and `predict`, as the commands of these names do it. Errors are those of `launcher.errors`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from launcher.api.child_process import Child
from launcher.api.job import Job
from launcher.api.rows import GIVEN, Rows, held_rows, write_rows
from launcher.display.live import Display, print_outcome
from launcher.errors import DataError, RequestError
from launcher.job.reading.job_file import check_section
from launcher.job.sections.data import Source
from launcher.run.folder import RunFolder
from launcher.run.results import Evaluation, Result

Place = str | PathLike[str]
Data = Place | Mapping[str, Any] | Rows
"""A file, a folder saved by `datasets` or a hub id; a data frame, a list of rows or of texts; or the keys that the job
file has for any of these and its columns, such as `{"source": frame, "text": "review"}`."""


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


def evaluate(
    model: Place, data: Data, *, batch_size: int = 32, processes: int | None = None, trust_code: Sequence[Place] = ()
) -> Evaluation:
    """Measure a model folder or a finished run on labelled data, every sample once, as `adaptrun evaluate` does.

    batch_size: samples of full length at once; processes: as for a job where None
    trust_code: files of your own that the model folder may name as its function or task; else none of its code runs
    Raises RequestError and its kinds, RunFailed, and Stopped after Ctrl-C.
    """
    with _asked(model, data, batch_size, processes, trust_code) as asked, Child("evaluate", **asked) as child:
        child.wait()
        found = child.answer()
    intervals = {metric: (low, high) for metric, (low, high) in found["intervals"].items()}
    return Evaluation(found["samples"], found["metrics"], intervals, found["seconds"])


def predict(
    model: Place, data: Data, *, batch_size: int = 32, processes: int | None = None, trust_code: Sequence[Place] = ()
) -> list[dict[str, Any]]:
    """The model's answer for each row of the data, in their order, as `adaptrun predict` writes it.

    Raises RequestError and its kinds, RunFailed, and Stopped after Ctrl-C.
    """
    with _asked(model, data, batch_size, processes, trust_code) as asked, Child("predict", **asked) as child:
        child.wait()
        file = Path(child.answer()["output"])
        with file.open(encoding="utf-8", newline="\n") as lines:  # an answer may hold other ends of lines
            return [json.loads(line) for line in lines]


@contextmanager
def _asked(
    model: Place, data: Data, batch_size: int, processes: int | None, trust_code: Sequence[Place]
) -> Iterator[dict[str, Any]]:
    """What the child is asked; inside, rows that the caller holds are in a file."""
    keys = data if isinstance(data, Mapping) else {"source": data}
    rows = held_rows(data)
    with tempfile.TemporaryDirectory(prefix="adaptrun-") as folder:
        file = Path(folder) / "rows.parquet"
        source = check_section(keys if rows is None else {**keys, "source": file}, Source)
        if rows is not None:
            paths = [name for role in ("image", "audio") if (name := source.column(role)) is not None]
            write_rows(rows, file, source.column("text") or "text", paths)
        asked = {"source": source.model_dump(mode="json"), "batch_size": batch_size, "processes": processes}
        try:
            trusted = [fspath(file) for file in trust_code]
            yield {"model": {"pretrained": fspath(model), "trust_code": trusted}, **asked}
        except RequestError as error:
            if rows is None:
                raise
            if isinstance(error, DataError) and error.file == str(file):
                raise DataError(GIVEN, error.message, error.row) from None
            raise RequestError(str(error).replace(str(file), GIVEN)) from None
