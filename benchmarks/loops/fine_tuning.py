"""Jobs fine-tuned one after the other in a process that has imported torch already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launcher.job.reading import load_job
from launcher.job.schema import Job
from launcher.plan.hardware import find_hardware
from launcher.plan.making import make_plan
from launcher.run.events import EventLog
from launcher.run.folder import RunFolder
from launcher.run.results import Result
from launcher.run.starts import Start
from launcher.worker.main import fine_tune
from launcher.worker.process import Place
from launcher.worker.session import Session
from launcher.worker.stopping import StopRequest
from launcher.worker.world import World


def fine_tuned(folder: Path, job: dict[str, Any]) -> Result:
    """Run a job to its end in this process alone; its run folder is `folder`."""
    run = RunFolder(folder)
    run.logs.mkdir(parents=True)
    run.checkpoints.mkdir()
    run.write_job(Job.model_validate(job))
    spec = load_job(run.job_file)
    run.write_plan(make_plan(spec, run.job_file, find_hardware(), processes=1))
    log = EventLog(run.events_file)
    try:
        fine_tune(
            Session(spec, run.plan(), run, World.at(Place(0, 0, 1), "cpu"), log, Start(checkpoint=None)), StopRequest()
        )
    finally:
        log.close()
    return Result.read(run.result_file)
