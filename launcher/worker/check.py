"""Tells whether jobs can be had with their models: `python -m launcher.worker.check FOLDER RUN...`, planned runs."""

from __future__ import annotations

import sys
from pathlib import Path

from launcher.run.folder import RunFolder
from launcher.worker.process import Place, RankProcess


def main() -> None:
    """Keep what libraries say before anything heavy is imported, then look at each job."""
    folder, *runs = (RunFolder(Path(name)) for name in sys.argv[1:])
    process = RankProcess(Place(), folder)
    process.keep_output()

    def work() -> None:
        from launcher.job.reading import load_job
        from launcher.worker.checking import check_model

        for run in runs:
            check_model(load_job(run.job_file), run.plan().total_steps)

    process.run(work)


if __name__ == "__main__":
    main()
