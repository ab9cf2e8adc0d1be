"""A rank: `python -m launcher.worker RUN|REQUEST`, started by the launcher, or of a run by hand

torchrun --nproc-per-node 4 -m launcher.worker job.yaml
deepspeed --module launcher.worker job.yaml
srun python -m launcher.worker job.yaml
"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from typing import Any

from launcher.job import requests as asked
from launcher.job.home import settle_home
from launcher.job.requests import Answer, FolderRequest, Request, TrainingRequest, answer_file
from launcher.run.folder import RunFolder, write_whole
from launcher.worker.rank.process import RankProcess

SERVED_BY: dict[type[Request[Any]], str] = {
    TrainingRequest: "train:serve",
    asked.PreparationRequest: "prepare:serve",
    asked.LrRangeRequest: "lr_range_test:serve",
    asked.FeaturesRequest: "features:serve",
    asked.EvaluationRequest: "evaluate:serve",
    asked.PredictionRequest: "predict:serve",
    asked.SoupRequest: "soup:serve",
    asked.ConsolidationRequest: "consolidate:serve",
    asked.ModelCheckRequest: "model_check:serve",
    asked.RankCheckRequest: "rank_check:serve",
    asked.ShapesRequest: "shapes:serve",
    asked.SelfcheckMaterialRequest: "selfcheck:serve_material",
    asked.SelfcheckRequest: "selfcheck:serve",
}
"""The function of `launcher.worker.requests` that serves each request, imported on use."""


def main() -> None:
    """Redirect this rank's output to its log before heavy imports, then do its work."""
    arguments = read_arguments()
    settle_home()
    request = request_of(arguments)
    process = RankProcess.here(folder_of(request, arguments.target))
    if process.folder is not None:
        process.keep_output()

    def work() -> None:
        answer = serve(process, request)
        if answer is not None and process.place.rank == 0:
            write_whole(answer_file(arguments.target), answer.model_dump_json())

    process.run(work)


def read_arguments() -> argparse.Namespace:
    """The command line of a rank."""
    parser = argparse.ArgumentParser(prog="launcher.worker", description="One rank of a fine-tuning run.")
    parser.add_argument("target", type=Path, help="a job file, or the folder of a run that was planned")
    parser.add_argument("--set", action="append", default=[], dest="sets", help="override: a.b=c")
    parser.add_argument("--resume", default="auto", help="auto, never, or a run or checkpoint")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed command adds it
    return parser.parse_args()


def request_of(arguments: argparse.Namespace) -> Request[Any]:
    """The request of the command line: the one in its file, else training."""
    target: Path = arguments.target
    named = {kind.__name__: kind for kind in SERVED_BY}
    if target.suffix == asked.SUFFIX and target.stem in named and target.is_file():
        return named[target.stem].read(target)
    return TrainingRequest(target=target, sets=tuple(arguments.sets), resume=arguments.resume)


def folder_of(request: Request[Any], target: Path) -> RunFolder | None:
    """The folder of this rank's log; None while a run that is started by hand has no folder."""
    if isinstance(request, TrainingRequest):
        return RunFolder(target.resolve()) if target.is_dir() else None
    return RunFolder(Path(request.folder) if isinstance(request, FolderRequest) else target.parent)


def serve(process: RankProcess, request: Request[Any]) -> Answer | None:
    """Serve this rank's part of a request; the answer is the same on all ranks."""
    module, _, function = SERVED_BY[type(request)].partition(":")
    answer: Answer | None = getattr(import_module(f"launcher.worker.requests.{module}"), function)(process, request)
    return answer


if __name__ == "__main__":
    main()
