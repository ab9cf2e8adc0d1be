"""The process of one call: `python -m launcher.api.child FOLDER`, with request.json in it."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from launcher import errors
from launcher.api.child_process import leave, leave_error
from launcher.commands.evaluate import evaluation_of, predict_with_model
from launcher.errors import AdaptrunError, RunFailed
from launcher.job.home import settle_home
from launcher.job.schema import Job, Model
from launcher.job.sections.data import Source
from launcher.supervise.failure import RankFailed
from launcher.supervise.run import begin_run, run_to_the_end, shown
from launcher.supervise.stop_requests import StopRequests


def main() -> None:
    """Do what is asked; leave the answer or the error."""
    folder = Path(sys.argv[1])
    settle_home()
    asked = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    threading.Thread(target=_stop_with_the_caller, daemon=True).start()
    try:
        CALLS[asked.pop("call")](folder, asked)
    except AdaptrunError as error:
        leave_error(folder, public(error))
        sys.exit(error.exit_code)


def train(folder: Path, asked: dict[str, Any]) -> None:
    """The command without its display, which the caller has."""
    job, job_file = Job.model_validate(asked["job"]), Path(asked["job_file"])
    with StopRequests().listening(last=True) as requests:
        begun = begin_run(job, job_file, asked["resume"])
        run = begun.folder
        said = {"path": str(run.path), "text": str(begun), "position": run.events_file.stat().st_size}
        leave(folder, "begun", said)
        with shown(run, quietly=True) as display:
            run_to_the_end(begun, job, job_file, display, requests)


def evaluate(folder: Path, asked: dict[str, Any]) -> None:
    """Leave the metrics."""
    source, model = Source.model_validate(asked["source"]), Model.model_validate(asked["model"])
    found = evaluation_of(model, source, asked["batch_size"], asked["processes"])
    leave(folder, "answer", found.model_dump(mode="json", exclude={"notes"}))


def predict(folder: Path, asked: dict[str, Any]) -> None:
    """Leave the place of the rows."""
    source, output = Source.model_validate(asked["source"]), folder / "rows.jsonl"
    model = Model.model_validate(asked["model"])
    predict_with_model(model, source, output, asked["batch_size"], asked["processes"])
    leave(folder, "answer", {"output": str(output)})


CALLS = {"train": train, "evaluate": evaluate, "predict": predict}


def public(error: AdaptrunError) -> AdaptrunError:
    """A failed rank's error under the name that `launcher.errors` has for it."""
    if not isinstance(error, RankFailed):
        return error
    named = getattr(errors, error.failure.error, RunFailed)
    is_known = isinstance(named, type) and issubclass(named, RunFailed)
    return named(str(error)) if is_known else RunFailed(str(error))


def _stop_with_the_caller() -> None:
    """Nothing is ever written to this process; its input ends when the caller's process has ended, or gives up."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
