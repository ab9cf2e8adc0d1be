"""Reading a data source of any format, row by row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from launcher.data.class_folders import is_class_folder, left_out, read_class_folders, some
from launcher.data.columnar import count_parquet, count_saved, read_hub, read_parquet, read_saved
from launcher.data.conll import CONLLU_SUFFIXES, read_conll
from launcher.data.delimited import read_delimited
from launcher.data.jsonlines import read_jsonlines
from launcher.data.rows import Row, check_values
from launcher.errors import DataError
from launcher.job.sections.data import Source

DELIMITED, JSONLINES, PARQUET, CONLL = (".csv", ".tsv"), (".jsonl",), (".parquet",), (".conll", *CONLLU_SUFFIXES)
SUFFIXES = DELIMITED + JSONLINES + PARQUET + CONLL


def read_rows(source: Source, columns: Mapping[str, str]) -> Iterator[Row]:
    """The rows of all files of `source`, in the given order, at most `source.limit`.

    columns: role to the column's name in the file
    Raises DataError with file and row.
    """
    return islice(_rows(source, columns), source.limit)


def _rows(source: Source, columns: Mapping[str, str]) -> Iterator[Row]:
    for place in source.files:
        for number, values in _read(place, source, columns):
            check_values(place, number, values)
            yield Row(place, number, values, source.label_separator)


def count_rows(source: Source) -> int | None:
    """The number of rows of `read_rows`; None for a hub id, which only the run downloads. Raises DataError."""
    total = 0
    for place in source.files:
        rows = _count(place, source)
        if rows is None:
            return None
        total += rows
    return total if source.limit is None else min(total, source.limit)


def look_at_beginnings(source: Source, columns: Mapping[str, str]) -> None:
    """Read the first row of each local file. Raises DataError, also for a missing column."""
    for place in source.files:
        if is_local(place):
            next(_read(place, source, columns), None)


def files_left_out(source: Source) -> list[str]:
    """Files in class folders that are not samples, one line per folder, without hidden files. Raises DataError."""
    folders = [Path(place) for place in source.files if Path(place).is_dir() and is_class_folder(Path(place))]
    return [f"{folder}: {some(files, folder)} skipped: not of a supported kind" for folder in folders
            if (files := left_out(folder))]  # fmt: skip


def is_local(place: str) -> bool:
    """Whether `place` is a file or a folder rather than a hub id."""
    path = Path(place)
    return path.exists() or path.is_absolute() or path.suffix.lower() in SUFFIXES or place.startswith(("./", "../"))


def _read(place: str, source: Source, columns: Mapping[str, str]) -> Iterator[tuple[int, dict[str, object]]]:
    if not is_local(place):
        return read_hub(place, source.split, columns)
    path = existing(place)
    if is_class_folder(path):
        return read_class_folders(path, columns)
    if path.is_dir():
        return read_saved(path, source.split, columns)
    if path.suffix.lower() in CONLL:
        return read_conll(path, source.encoding, columns)
    if path.suffix.lower() in DELIMITED:
        return read_delimited(path, source.encoding, columns, source.quoting)
    if path.suffix.lower() in JSONLINES:
        return read_jsonlines(path, source.encoding, columns)
    return read_parquet(path, columns)


def _count(place: str, source: Source) -> int | None:
    if not is_local(place):
        return None
    path = existing(place)
    if path.is_dir() and not is_class_folder(path):
        return count_saved(path, source.split)
    if path.suffix.lower() in PARQUET:
        return count_parquet(path)
    return sum(1 for _ in _read(place, source, {}))


def existing(place: str) -> Path:
    """An existing local file or folder of a supported kind. Raises DataError."""
    path = Path(place)
    if not path.exists():
        raise DataError(path, "there is no such file; check the path")
    if path.is_file() and path.suffix.lower() not in SUFFIXES:
        raise DataError(path, f"unknown kind of file {path.suffix!r}; the kinds are {', '.join(SUFFIXES)}")
    return path
