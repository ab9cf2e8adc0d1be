"""Training: the ranks of a planned run, or of a run that they start from a job file."""

from __future__ import annotations

import sys

from launcher.errors import NotAdopted
from launcher.job.requests import TrainingRequest
from launcher.run.folder import RunFolder
from launcher.run.results import insist_on_adoption
from launcher.worker.rank.network_check import check_network
from launcher.worker.rank.process import RankProcess
from launcher.worker.rank.run_context import joined_run
from launcher.worker.training.recipe import fine_tune


def serve(process: RankProcess, request: TrainingRequest) -> None:
    """Join the world of the run and fine-tune. The run's folder is the answer."""
    by_hand = process.folder is None
    with joined_run(process, request.target, request.sets, request.resume) as context:
        if context.plan.nodes > 1:
            check_network(context, process.place.node)
        fine_tune(context, process.stop)
        folder = context.folder
    if by_hand:  # no launcher reports how it ended
        _leave_unless_adopted(folder)


def _leave_unless_adopted(folder: RunFolder) -> None:
    """Exit with 1 if the job requires adoption and the verdict is against it; no failure is reported."""
    try:
        insist_on_adoption(folder)
    except NotAdopted as verdict:
        sys.exit(int(verdict.exit_code))
