"""Prepares the data of a planned run before its ranks start: `python -m launcher.worker.requests.prepare RUN`."""

from __future__ import annotations

import sys
from pathlib import Path

from launcher.run.folder import RunFolder
from launcher.worker.rank.process import RankEnv, RankProcess


def main() -> None:
    """Prepare, and leave word of where the data lie."""
    folder = RunFolder(Path(sys.argv[1]))
    process = RankProcess(RankEnv(), folder)
    process.keep_output()

    def work() -> None:
        from launcher.run.events import EventLog
        from launcher.worker.data.inputs import prepare

        log = EventLog(folder.events_file)
        prepare(folder.job(), folder, log)
        log.close()

    process.run(work)


if __name__ == "__main__":
    main()
