"""A rank of `evaluate` or `predict`: `python -m launcher.worker.requests.evaluate FOLDER`, with request.json in it."""

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
        from launcher.worker.evaluation.inference import answer

        answer(process.place, folder)

    process.run(work)


if __name__ == "__main__":
    main()
