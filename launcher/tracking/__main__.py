"""A tracker's process: `python -m launcher.tracking RUN NAME`, started by whoever shows the run.

Its standard input says when the start has ended, and how; where that is closed without a word, whoever held it is
gone. So no signal is for this process: it delivers what there is, and ends by itself.
"""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from pathlib import Path

from launcher.job.schema import Tracker as Settings
from launcher.run.folder import RunFolder
from launcher.tracking.following import Ending, follow
from launcher.tracking.starting import say_lost


def main() -> None:
    """Follow the run; where that fails, say so once in the run's own events."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    folder, name = RunFolder(Path(sys.argv[1])), sys.argv[2]
    ending = Ending()
    threading.Thread(target=lambda: ending.tell(sys.stdin.readline().strip()), daemon=True).start()
    try:
        (entry,) = [entry for entry in folder.job_values()["track"] if entry["name"] == name]
        follow(folder, Settings.model_validate(entry), ending)
    except Exception as error:
        traceback.print_exc()
        say_lost(folder, name, f"{type(error).__name__}: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]


if __name__ == "__main__":
    main()
