"""`adaptrun evaluate`: the metrics of a model folder on one data set."""

from __future__ import annotations

from launcher.job.requests import EvaluationAnswer, EvaluationRequest
from launcher.worker.evaluation.evaluate import evaluate
from launcher.worker.evaluation.inference import opened
from launcher.worker.rank.process import RankProcess


def serve(process: RankProcess, request: EvaluationRequest) -> EvaluationAnswer:
    """Load the model, memory-map the data, evaluate each sample once."""
    with opened(request, process.place, labelled=True) as (model, data, world, notes):
        evaluation = evaluate(
            model.module, model.task, data, world, batch_size=request.batch_size, precision=request.precision
        )
        world.wait()
    return EvaluationAnswer(**evaluation.as_dict(), notes=tuple(notes))
