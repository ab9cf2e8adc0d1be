"""Predictions for every row of a data set, written by all ranks and merged in the order of the rows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launcher.data.prepared import Prepared
from launcher.files import partial_of
from launcher.models.tasks.base import Task, TaskModule
from launcher.worker.evaluation.pass_over import pass_over
from launcher.worker.rank.world import World


def predict(
    module: TaskModule,
    task: Task,
    data: Prepared,
    world: World,
    folder: Path,
    *,
    batch_size: int,
    precision: str = "fp32",
) -> None:
    """Write this rank's predictions to `folder`, batch by batch; each batch has its own schema."""
    import pyarrow as pa

    passed = pass_over(
        data,
        task,
        module,
        world,
        lambda batch: task.answer(module, batch),
        batch_size=batch_size,
        precision=precision,
    )
    file_name = _part(folder, world.data_rank) if world.speaks_for_data else Path(os.devnull)
    with pa.OSFile(str(file_name), "wb") as file:
        for computed in passed:
            answers = zip(computed.places, computed.result, strict=True)
            table = pa.RecordBatch.from_pylist([{"row": int(place) + 1, **answer} for place, answer in answers])
            with pa.ipc.new_stream(file, table.schema) as writer:
                writer.write_batch(table)


def merge_predictions(folder: Path, ranks: int, rows: int, output: Path) -> None:
    """Merge the ranks' files in the order of the rows; `output` appears complete or not at all."""
    import pyarrow as pa

    parts = [table for rank in range(ranks) for table in _read(_part(folder, rank))]
    table = pa.concat_tables(parts, promote_options="permissive").sort_by("row")
    if table.num_rows != rows:
        raise RuntimeError(f"{table.num_rows} predictions for {rows} rows")
    partial = partial_of(output)
    try:
        _write(table, partial, output.suffix)
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)


def _read(file: Path) -> Iterator[Any]:
    import pyarrow as pa

    if file.stat().st_size == 0:  # of a rank without rows
        return
    parts = pa.memory_map(str(file))
    while parts.tell() < parts.size():
        yield pa.ipc.open_stream(parts).read_all()


def _write(table: Any, file: Path, suffix: str) -> None:
    if suffix == ".parquet":
        import pyarrow.parquet as pq

        pq.write_table(table, file)
    elif suffix == ".csv":
        import csv

        with file.open("w", newline="", encoding="utf-8") as opened:
            writer = csv.writer(opened)
            writer.writerow(table.column_names)
            for batch in table.to_batches(max_chunksize=4096):
                writer.writerows(zip(*(column.to_pylist() for column in batch.columns), strict=True))
    else:
        import json

        with file.open("w", encoding="utf-8") as opened:
            for batch in table.to_batches(max_chunksize=4096):
                opened.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in batch.to_pylist())


def _part(folder: Path, rank: int) -> Path:
    return folder / f"predictions-{rank}.arrow"
