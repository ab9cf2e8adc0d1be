"""The features of every sample of a job, for `adaptrun gap`."""

from __future__ import annotations

from pathlib import Path

from launcher.job.requests import FeaturesAnswer, FeaturesRequest
from launcher.run.folder import RunFolder
from launcher.worker.evaluation.features import features_of_sets
from launcher.worker.rank.process import RankProcess
from launcher.worker.rank.world import World

TIMEOUT = 30.0


def serve(process: RankProcess, request: FeaturesRequest) -> FeaturesAnswer:
    """Extract the features that are not cached."""
    folder = RunFolder(Path(request.folder))
    job = folder.job()
    with World.at(process.place, request.device).joined(TIMEOUT) as world:
        files = features_of_sets(job, folder, world)
        world.wait()
    return FeaturesAnswer(features=files)
