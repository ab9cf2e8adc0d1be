"""A rank of a run: `python -m launcher.worker RUN_FOLDER`, started by the launcher, or by hand

torchrun --nproc-per-node 4 -m launcher.worker job.yaml
deepspeed --module launcher.worker job.yaml
srun python -m launcher.worker job.yaml
"""

from __future__ import annotations

import argparse
from pathlib import Path

from launcher.job.home import settle_home
from launcher.run.folder import RunFolder
from launcher.worker.rank.process import RankProcess


def read_arguments() -> argparse.Namespace:
    """The command line of a rank."""
    parser = argparse.ArgumentParser(prog="launcher.worker", description="One rank of a fine-tuning run.")
    parser.add_argument("target", type=Path, help="a job file, or the folder of a run that was planned")
    parser.add_argument("--set", action="append", default=[], dest="sets", help="override: a.b=c")
    parser.add_argument("--resume", help="auto, never, or a run or checkpoint")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed command adds it
    return parser.parse_args()


def main() -> None:
    """Keep this rank's output before anything heavy is imported, then do its work."""
    arguments = read_arguments()
    settle_home()
    planned = RunFolder(arguments.target.resolve()) if arguments.target.is_dir() else None
    process = RankProcess.here(planned)
    if planned is not None:
        process.keep_output()

    def work() -> None:
        from launcher.worker.training.recipe import run_job

        run_job(process, arguments.target, arguments.sets, arguments.resume)

    process.run(work)


if __name__ == "__main__":
    main()
