"""A rank of `adaptrun train --find-lr`: `python -m launcher.worker.requests.find_lr FOLDER`, a planned run's."""

from __future__ import annotations

import sys
from pathlib import Path

from launcher.run.folder import RunFolder
from launcher.worker.rank.process import RankProcess


def main() -> None:
    """Keep this rank's output before anything heavy is imported, then do its work."""
    folder = RunFolder(Path(sys.argv[1]))
    process = RankProcess.here(folder)
    process.keep_output()

    def work() -> None:
        from launcher.worker.rank.run_context import joined_run
        from launcher.worker.requests.lr_range_test import sweep

        with joined_run(process, folder.path, (), None) as context:
            sweep(context)

    process.run(work)


if __name__ == "__main__":
    main()
