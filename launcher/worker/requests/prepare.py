"""Prepare the data of a planned run in one process, with all cores, before its ranks start."""

from __future__ import annotations

from pathlib import Path

from launcher.job.requests import Done, PreparationRequest
from launcher.run.events import EventLog
from launcher.run.folder import RunFolder
from launcher.worker.data.inputs import prepare
from launcher.worker.rank.process import RankProcess


def serve(process: RankProcess, request: PreparationRequest) -> Done:
    """Prepare the data, and record their folders in the run's folder."""
    folder = RunFolder(Path(request.folder))
    log = EventLog(folder.events_file)
    prepare(folder.job(), folder, log)
    log.close()
    return Done()
