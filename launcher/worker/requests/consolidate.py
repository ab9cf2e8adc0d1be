"""`adaptrun consolidate`: convert a checkpoint to a model folder, in one process."""

from __future__ import annotations

from pathlib import Path

from launcher.checkpoint.consolidating import consolidate
from launcher.job.requests import ConsolidationAnswer, ConsolidationRequest
from launcher.worker.rank.process import RankProcess


def serve(process: RankProcess, request: ConsolidationRequest) -> ConsolidationAnswer:
    """Write the folder; the answer is its number of tensors."""
    notes = list[str]()
    tensors = consolidate(
        Path(request.checkpoint),
        Path(request.output),
        request.dtype,
        None if request.skeleton is None else Path(request.skeleton),
        request.prefix,
        notes.append,
        request.trusted,
    )
    return ConsolidationAnswer(tensors=tensors, notes=tuple(notes))
