"""A rank of `adaptrun train --find-lr`: `python -m launcher.worker.find_lr FOLDER`, a planned run's."""

from __future__ import annotations

import sys
from pathlib import Path

from launcher.run.folder import RunFolder
from launcher.worker.process import RankProcess


def main() -> None:
    """Keep this rank's output before anything heavy is imported, then do its work."""
    folder = RunFolder(Path(sys.argv[1]))
    process = RankProcess.here(folder)
    process.keep_output()

    def work() -> None:
        from launcher.worker.session import joined_session
        from launcher.worker.sweeping import sweep

        with joined_session(process, folder.path, (), None) as session:
            sweep(session)

    process.run(work)


if __name__ == "__main__":
    main()
