"""Rows of parquet files, of folders saved by `datasets`, and of data sets on the hub."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from launcher.data.class_names import class_names
from launcher.data.rows import resolve_columns
from launcher.errors import DataError
from launcher.job.splits import DICTIONARY

ROWS_AT_ONCE = 4096
STATE, INFO = "state.json", "dataset_info.json"
"""Files that `datasets` writes into a saved folder."""


def read_parquet(path: Path, columns: Mapping[str, str]) -> Iterator[tuple[int, dict[str, object]]]:
    """Number and values by role of each row. Raises DataError."""
    with _parquet(path) as file:
        found = resolve_columns(path, file.schema_arrow.names, columns)
        names = class_names(file.schema_arrow.metadata)
        number = 0
        for number, record in _records(path, _each(path, _batches(file, sorted(set(found.values()))))):
            yield number, {role: _named(path, number, record[name], names.get(name)) for role, name in found.items()}
        if number == 0:
            raise DataError(path, "the file has no rows; at least one sample is needed")
        if number != file.metadata.num_rows:
            fault = f"the file is damaged: it has {number} rows, and its metadata say {file.metadata.num_rows}"
            raise DataError(path, f"{fault}; write it anew")


def _batches(file: Any, columns: list[str]) -> Iterator[Any]:
    """The record batches of one row group at a time, so that rows before a damaged one are readable."""
    for group in range(file.num_row_groups):
        yield from file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=columns)


def count_parquet(path: Path) -> int:
    """The number of rows, from the file's metadata."""
    with _parquet(path) as file:
        rows: int = file.metadata.num_rows
        return rows


def _parquet(path: Path) -> Any:
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path, memory_map=True)
        names, rows = file.schema_arrow.names, file.metadata.num_rows
        if rows < 0 or not names:
            raise ValueError(f"its metadata say {rows} rows of {len(names)} columns")
        return file
    except Exception as error:  # damaged files make the reader raise errors of any type
        raise DataError(path, f"not a readable parquet file: {_said(error)}") from None


def _each(place: Path | str, batches: Iterable[Any]) -> Iterator[Any]:
    """The record batches. Raises DataError for one that cannot be read."""
    remaining, rows = iter(batches), 0
    while True:
        try:
            batch = next(remaining, None)
        except Exception as error:  # as above
            raise DataError(
                place, f"the data are damaged from here on: {_said(error)}; write them anew", rows + 1
            ) from None
        if batch is None:
            return
        rows += batch.num_rows
        yield batch


def _records(place: Path | str, batches: Iterable[Any]) -> Iterator[tuple[int, dict[str, object]]]:
    """Number and plain values by column of each row. Raises DataError for invalid values."""
    before = 0
    for batch in batches:
        records = _plain(batch)
        for place_in_batch in range(batch.num_rows):
            record = records[place_in_batch] if records is not None else None
            number = before + place_in_batch + 1
            if record is None:
                record = _plain_row(place, number, batch.slice(place_in_batch, 1))
            yield number, record
        before += batch.num_rows


def _plain(batch: Any) -> list[dict[str, object]] | None:
    """The rows as Python values; None if any value cannot be converted."""
    try:
        batch.validate(full=True)
        records: list[dict[str, object]] = batch.to_pylist()
    except Exception:  # as above; the row at fault is then found row by row
        return None
    return records


def _plain_row(place: Path | str, number: int, row: Any) -> dict[str, object]:
    try:
        row.validate(full=True)
        record: dict[str, object] = row.to_pylist()[0]
    except Exception as error:  # as above
        raise DataError(place, f"the row is damaged: {_said(error)}; write the data anew", number) from None
    return record


def _said(error: Exception) -> str:
    """The first line of a library's error message."""
    return str(error).strip().split("\n", 1)[0][:300] or type(error).__name__


def is_saved(folder: Path) -> bool:
    """Whether a folder was saved by `datasets.Dataset.save_to_disk`, judged by its files' names."""
    return (folder / DICTIONARY).is_file() or ((folder / STATE).is_file() and (folder / INFO).is_file())


def read_saved(folder: Path, split: str | None, columns: Mapping[str, str]) -> Iterator[tuple[int, dict[str, object]]]:
    """Rows of a folder saved by `datasets.Dataset.save_to_disk`, as they are stored. Raises DataError.

    The format that was set when the data were saved (`with_format`, a selection of columns) is ignored.
    """
    from datasets import Dataset

    part = _saved_part(folder, split)
    try:
        loaded = Dataset.load_from_disk(str(part))
    except Exception as error:  # as above
        raise _not_saved(folder, error) from None
    yield from _read_dataset(folder, loaded, columns)


def count_saved(folder: Path, split: str | None) -> int:
    """The number of rows of such a folder, from its files' headers. Raises DataError."""
    import pyarrow as pa

    part = _saved_part(folder, split)
    try:
        files = json.loads((part / STATE).read_text(encoding="utf-8"))["_data_files"]
        streams = [pa.ipc.open_stream(pa.memory_map(str(part / file["filename"]))) for file in files]
        return sum(batch.num_rows for stream in streams for batch in stream)
    except Exception as error:  # as above
        raise _not_saved(folder, error) from None


def _saved_part(folder: Path, split: str | None) -> Path:
    """The folder of a split, if there are several. Raises DataError."""
    dictionary = folder / DICTIONARY
    if not dictionary.is_file():
        return folder
    try:
        splits = [str(name) for name in json.loads(dictionary.read_text(encoding="utf-8"))["splits"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _not_saved(folder, error) from None
    wanted = split or "train"
    if wanted not in splits:
        raise DataError(folder, f"there is no split {wanted!r}; set `split` to one of {', '.join(splits)}")
    return folder / wanted


def _not_saved(folder: Path, error: Exception) -> DataError:
    return DataError(folder, f"not a folder saved by `datasets`: {_said(error)}")


def read_hub(name: str, split: str | None, columns: Mapping[str, str]) -> Iterator[tuple[int, dict[str, object]]]:
    """Rows of a data set on the hub. Raises DataError."""
    from datasets import load_dataset

    try:
        loaded = load_dataset(name, split=split or "train")
    except Exception as error:  # as above
        raise DataError(
            name, f"neither a file or folder here nor a data set on the hub: {_said(error)}; check the name"
        ) from error
    yield from _read_dataset(name, loaded, columns)


def _read_dataset(
    place: Path | str, loaded: Any, columns: Mapping[str, str]
) -> Iterator[tuple[int, dict[str, object]]]:
    """Rows as stored: images and sounds as bytes or paths, without decoding; only the requested columns are read."""
    table = loaded.data.table
    found = resolve_columns(place, table.column_names, columns)
    labels = {role: _names(loaded.features[name]) for role, name in found.items()}
    number = 0
    batches = _each(place, table.select(sorted(set(found.values()))).to_batches(max_chunksize=ROWS_AT_ONCE))
    for number, record in _records(place, batches):
        yield number, {role: _named(place, number, record[name], labels[role]) for role, name in found.items()}
    if number == 0:
        raise DataError(place, "the data set has no rows; at least one sample is needed")


def _names(feature: Any) -> list[str] | None:
    names: list[str] | None = getattr(getattr(feature, "feature", feature), "names", None)
    return names


def _named(place: Path | str, number: int, value: object, names: list[str] | None) -> object:
    """The names of a `ClassLabel`'s index, or of a list of them."""
    if names is None:
        return value
    if isinstance(value, list):
        return [_named(place, number, part, names) for part in value]
    if not isinstance(value, int):
        return value
    if value < 0:  # `datasets` stores a missing label as -1
        return None
    if value >= len(names):
        raise DataError(place, f"the label {value} has no name: its column has {len(names)}; correct it", number)
    return names[value]
