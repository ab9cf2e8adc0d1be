"""A rank that extracts features: `python -m launcher.worker.requests.extract FOLDER DEVICE`, with job.yaml in it."""

from __future__ import annotations

import sys
from pathlib import Path

from launcher.run.folder import RunFolder
from launcher.worker.rank.process import RankProcess


def main() -> None:
    """Keep this rank's output before anything heavy is imported, then do its work."""
    folder, device = RunFolder(Path(sys.argv[1])), sys.argv[2]
    process = RankProcess.here(folder)
    process.keep_output()

    def work() -> None:
        from launcher.worker.evaluation.features import extract_features

        extract_features(process.place, folder, device)

    process.run(work)


if __name__ == "__main__":
    main()
