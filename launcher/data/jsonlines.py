"""Rows of jsonl files: one JSON object a line, where only a line feed ends a line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from launcher.data.decoding import opened_text
from launcher.data.rows import missing_column
from launcher.errors import DataError


def read_jsonlines(path: Path, encoding: str, columns: Mapping[str, str]) -> Iterator[tuple[int, dict[str, object]]]:
    """Number and values by role of each row. Raises DataError."""
    number = 0
    with opened_text(path, encoding) as file:
        for line in _lines(file):
            if not line.strip():
                continue
            number += 1
            yield number, _values(path, number, line, columns)
    if number == 0:
        raise DataError(path, "the file is empty; it needs at least one JSON object")


def _values(path: Path, number: int, line: str, columns: Mapping[str, str]) -> dict[str, object]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(path, f"not valid JSON at column {error.colno}: {error.msg}", number) from None
    if not isinstance(record, dict):
        raise DataError(path, f'a JSON object is needed, such as {{"text": …}}, not {line.strip()[:40]}', number)
    for name in columns.values():
        if name not in record:
            raise missing_column(path, name, list(record), number)
    return {role: record[name] for role, name in columns.items()}


def _lines(file: Iterator[str]) -> Iterator[str]:
    """Pieces between line feeds: the file's own iterator also stops at a lone carriage return."""
    kept = ""
    for piece in file:
        kept += piece
        if piece.endswith("\n"):
            yield kept
            kept = ""
    if kept:
        yield kept
