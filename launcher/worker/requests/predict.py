"""`adaptrun predict`: one output row for each row of the data."""

from __future__ import annotations

from pathlib import Path

from launcher.job.requests import PredictionAnswer, PredictionRequest
from launcher.worker.evaluation.inference import opened
from launcher.worker.evaluation.prediction import merge_predictions, predict
from launcher.worker.rank.process import RankProcess


def serve(process: RankProcess, request: PredictionRequest) -> PredictionAnswer:
    """Load the model, memory-map the data; each rank writes its rows, and rank 0 merges them."""
    assert process.folder is not None
    parts = process.folder.path
    with opened(request, process.place, labelled=False) as (model, data, world, notes):
        predict(
            model.module, model.task, data, world, parts, batch_size=request.batch_size, precision=request.precision
        )
        world.wait()
        if world.is_first:
            merge_predictions(parts, world.data_size, len(data), Path(request.output))
        world.wait()
    return PredictionAnswer(rows=len(data), notes=tuple(notes))
