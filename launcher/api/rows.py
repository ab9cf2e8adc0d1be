"""Samples that a program holds: rows, texts or a data frame, written to a file that ranks read as any other."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from launcher.errors import RequestError

GIVEN = "the given rows"
"""What messages call them in place of their file."""


@runtime_checkable
class Frame(Protocol):
    """A data frame of pandas, polars or pyarrow: what gives its columns as an Arrow stream."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The Arrow PyCapsule interface."""


Rows = Frame | Sequence[Mapping[str, Any]] | Sequence[str]
"""A data frame, or a list of rows (`{column: value}`), or of texts."""


def held_rows(data: object) -> Rows | None:
    """The samples, where they are given themselves or as the `source` of keys; None where a place is named."""
    rows = data.get("source") if isinstance(data, Mapping) else data
    if isinstance(rows, Frame):
        return rows
    if not isinstance(rows, Iterable) or isinstance(rows, str | bytes | PathLike | Mapping):
        return None
    held = list(rows)
    names_files = isinstance(data, Mapping) and held and all(isinstance(row, str | PathLike) for row in held)
    return None if names_files else held


def write_rows(rows: Rows, file: Path, text: str, paths: Sequence[str]) -> None:
    """Write them as parquet, in their order.

    text: name of the column that texts without one go to
    paths: names of columns that may hold paths, which are relative to the working directory
    Raises RequestError for rows that have no columns, or a column that holds values of several kinds.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = pa.table(rows) if isinstance(rows, Frame) else pa.Table.from_pylist(_plain_rows(rows, text))
        for name in set(paths) & set(table.column_names):
            values = [_absolute(value) for value in table[name].to_pylist()]
            table = table.set_column(table.column_names.index(name), name, pa.array(values))
        parquet.write_table(table, file)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError) as error:
        raise RequestError(f"{GIVEN}: {error}; a column must hold values of one type") from error


def _plain_rows(rows: Sequence[Mapping[str, Any]] | Sequence[str], text: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for number, row in enumerate(rows, 1):
        if isinstance(row, str):
            row = {text: row}
        if not isinstance(row, Mapping):
            raise RequestError(
                f"{GIVEN}, row {number}: found {type(row).__name__}; a row must be {{column: value}}, or a text"
            )
        found.append({str(name): _plain(value) for name, value in row.items()})
    if not found:
        raise RequestError(f"{GIVEN} are empty; give at least one row")
    if len(found) > 1 and all(isinstance(row, str) and Path(row).is_file() for row in rows):
        raise RequestError(
            f'these are names of files; give files as {{"source": [...]}}, or texts as [{{"{text}": "…"}}, …]'
        )
    columns = dict.fromkeys(name for row in found for name in row)  # from_pylist reads those of the first row alone
    return [{name: row.get(name) for name in columns} for row in found]


def _plain(value: Any) -> Any:
    """What Arrow takes: a path as text, an image of pillow's as the bytes of a PNG."""
    if isinstance(value, PathLike):
        return fspath(value)
    if hasattr(value, "getbands"):
        held = io.BytesIO()
        value.save(held, "PNG")
        return held.getvalue()
    return value


def _absolute(value: Any) -> Any:
    return str(Path(value).absolute()) if isinstance(value, str) else value
