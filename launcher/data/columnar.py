"""Rows of parquet files, of folders saved by `datasets`, and of data sets on the hub."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from launcher.data.class_names import class_name, class_names
from launcher.data.rows import resolve_columns
from launcher.errors import DataError

ROWS_AT_ONCE = 4096


def read_parquet(path: Path, columns: Mapping[str, str]) -> Iterator[tuple[int, dict[str, object]]]:
    """Number and values by role of each row. Raises DataError."""
    with _parquet(path) as file:
        found = resolve_columns(path, file.schema_arrow.names, columns)
        names = class_names(file.schema_arrow.metadata)
        number = 0
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=sorted(set(found.values()))):
            for record in batch.to_pylist():
                number += 1
                yield number, {role: class_name(record[name], names.get(name)) for role, name in found.items()}
        if number == 0:
            raise DataError(path, "the file has no row; at least one sample is needed")


def count_parquet(path: Path) -> int:
    """Rows, from the file's metadata."""
    with _parquet(path) as file:
        rows: int = file.metadata.num_rows
        return rows


def _parquet(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError(path, f"not a readable parquet file: {error}") from None


def read_saved(folder: Path, split: str | None, columns: Mapping[str, str]) -> Iterator[tuple[int, dict[str, object]]]:
    """Rows of a folder saved by `datasets.Dataset.save_to_disk`. Raises DataError."""
    from datasets import DatasetDict, load_from_disk

    try:
        loaded = load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(folder, f"not a folder saved by `datasets`: {error}") from None
    if isinstance(loaded, DatasetDict):
        loaded = loaded[_split_of(folder, split, list(loaded))]
    yield from _read_dataset(folder, loaded, columns)


def count_saved(folder: Path, split: str | None) -> int:
    """Rows of such a folder, from its files' headers. Raises DataError."""
    import pyarrow as pa

    dictionary = folder / "dataset_dict.json"
    if dictionary.is_file():
        splits = json.loads(dictionary.read_text(encoding="utf-8"))["splits"]
        folder = folder / _split_of(folder, split, splits)
    try:
        files = json.loads((folder / "state.json").read_text(encoding="utf-8"))["_data_files"]
        streams = [pa.ipc.open_stream(pa.memory_map(str(folder / file["filename"]))) for file in files]
        return sum(batch.num_rows for stream in streams for batch in stream)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise DataError(folder, f"not a folder saved by `datasets`: {error}") from None


def read_hub(name: str, split: str | None, columns: Mapping[str, str]) -> Iterator[tuple[int, dict[str, object]]]:
    """Rows of a data set on the hub. Raises DataError."""
    from datasets import load_dataset

    try:
        loaded = load_dataset(name, split=split or "train")
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise DataError(
            name, f"neither a file or folder here nor a data set that the hub gives: {reason}; check the name"
        ) from error
    yield from _read_dataset(name, loaded, columns)


def _read_dataset(
    place: Path | str, loaded: Any, columns: Mapping[str, str]
) -> Iterator[tuple[int, dict[str, object]]]:
    found = resolve_columns(place, loaded.column_names, columns)
    labels = {role: _names(loaded.features[name]) for role, name in found.items()}
    number = 0
    for record in loaded:
        number += 1
        yield number, {role: _named(record[name], labels[role]) for role, name in found.items()}
    if number == 0:
        raise DataError(place, "the data set has no row; at least one sample is needed")


def _names(feature: Any) -> list[str] | None:
    names: list[str] | None = getattr(getattr(feature, "feature", feature), "names", None)
    return names


def _named(value: object, names: list[str] | None) -> object:
    """A `ClassLabel` holds an index, or a list of them; the name is what the label says."""
    if names is not None and isinstance(value, list):
        return [_named(part, names) for part in value]
    return names[value] if names is not None and isinstance(value, int) and value >= 0 else value


def _split_of(folder: Path, split: str | None, present: list[str]) -> str:
    wanted = split or "train"
    if wanted not in present:
        raise DataError(folder, f"there is no split {wanted!r}; set `split` to one of {', '.join(present)}")
    return wanted
