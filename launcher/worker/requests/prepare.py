"""One process prepares the data of a planned run, with all cores, before its ranks start."""

from __future__ import annotations

from pathlib import Path

from launcher.job.requests import Done, PreparationRequest
from launcher.run.events import EventLog
from launcher.run.folder import RunFolder
from launcher.worker.data.inputs import prepare
from launcher.worker.rank.process import RankProcess


def serve(process: RankProcess, request: PreparationRequest) -> Done:
    """Prepare, and leave word in the run's folder of where the data lie."""
    folder = RunFolder(Path(request.folder))
    log = EventLog(folder.events_file)
    prepare(folder.job(), folder, log)
    log.close()
    return Done()
