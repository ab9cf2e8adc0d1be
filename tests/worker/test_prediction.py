"""Predictions of several ranks and batches as one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from launcher.models.parts.batch import Batch
from launcher.worker.evaluation.prediction import merge_predictions, predict
from launcher.worker.rank.world import World
from tests.worlds import Worlds


class Rows:
    """Eleven rows of one length."""

    lengths = np.ones(11, dtype=np.int32)

    def __getitem__(self, ids: Any) -> list[int]:
        return list(ids)


class SomeLabels:
    """No label for the first seven rows, which have batches of their own; then ever more."""

    one_length = False

    def collate(self, examples: list[int], ids: list[int]) -> Batch:
        places = torch.tensor(ids)
        return Batch({}, places, torch.ones(len(places)), places, len(ids))

    def answer(self, module: nn.Module, batch: Batch) -> list[dict[str, Any]]:
        return [{"labels": ["x"] * max(0, row - 6)} for row in batch.ids.tolist()]


def predict_part(rank: int, size: int, folder: str, batch_size: int) -> None:
    world = World(rank, rank, size)
    predict(nn.Identity(), SomeLabels(), Rows(), world, Path(folder), batch_size=batch_size)  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize(("size", "batch_size"), [(1, 2), (2, 2), (2, 11)])
def test_batches_without_any_label_are_put_together_with_others(
    size: int, batch_size: int, suffix: str, worlds: Worlds, tmp_path: Path
) -> None:
    worlds.run(size, predict_part, str(tmp_path), batch_size)
    output = tmp_path / f"out{suffix}"
    merge_predictions(tmp_path, size, 11, output)
    if suffix == ".jsonl":
        found = [json.loads(line) for line in output.read_text().splitlines()]
    else:
        import pyarrow.parquet as pq

        found = pq.read_table(output).to_pylist()
    assert found == [{"row": row + 1, "labels": ["x"] * max(0, row - 6)} for row in range(11)]
