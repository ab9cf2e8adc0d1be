"""Whether planned jobs can be had with their models: `python -m launcher.worker.requests.check FOLDER [RUN]...`."""

from __future__ import annotations

import sys
from pathlib import Path

from launcher.run.folder import RunFolder
from launcher.worker.rank.process import RankEnv, RankProcess


def main() -> None:
    """Keep what libraries say before anything heavy is imported, then look at each job."""
    folder, asked = RunFolder(Path(sys.argv[1])), sys.argv[2:]
    process = RankProcess(RankEnv(), folder)
    process.keep_output()

    def work() -> None:
        from launcher.errors import RequestError
        from launcher.worker.requests.model_check import check_model

        for place, name in zip(asked[::2], asked[1::2], strict=True):
            run = RunFolder(Path(place))
            try:
                check_model(run.job(), run.plan().total_steps)
            except RequestError as error:
                raise RequestError(f"{name}: {error}" if name else str(error)) from error

    process.run(work)


if __name__ == "__main__":
    main()
