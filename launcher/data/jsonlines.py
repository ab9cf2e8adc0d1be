"""Rows of jsonl files: one JSON object per line. Only a line feed ends a line."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from launcher.data.decoding import opened_text
from launcher.data.rows import missing_column
from launcher.errors import DataError

TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}:,]|[^\s"\[\]{}:,]+|"')
"""A JSON token: a string, a bracket, a separator, or a number or word; a lone quote is an unclosed string."""
CLOSERS = {"[": "]", "{": "}"}


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
    record = _record(path, number, line, set(columns.values()))
    if not isinstance(record, dict):
        raise DataError(path, f'a JSON object is needed, such as {{"text": …}}, not {line.strip()[:40]}', number)
    for name in columns.values():
        if name not in record:
            raise missing_column(path, name, list(record), number)
    return {role: record[name] for role, name in columns.items()}


def _record(path: Path, number: int, line: str, wanted: Collection[str]) -> Any:
    """The line's object; if Python cannot parse all of it, only its `wanted` values, and None for the others."""
    try:
        return json.loads(line, object_pairs_hook=_each_key_once)
    except json.JSONDecodeError as error:
        raise DataError(path, f"not valid JSON at column {error.colno}: {error.msg}", number) from None
    except (ValueError, RecursionError):
        return _wanted_values(path, number, line, wanted)


def _wanted_values(path: Path, number: int, line: str, wanted: Collection[str]) -> Any:
    pieces = _members(line)
    if pieces is None:
        raise DataError(path, "not a JSON object whose brackets, keys and commas match", number)
    counts, record = Counter(key for key, _ in pieces), dict[str, object]()
    for key, text in pieces:
        if key in wanted and counts[key] > 1:
            raise DataError(path, f"the key {key!r} is given {counts[key]} times; remove all but one", number)
        try:
            record[key] = json.loads(text, object_pairs_hook=_each_key_once) if key in wanted else None
        except json.JSONDecodeError as error:
            raise DataError(path, f"not valid JSON in {key!r}: {error.msg}", number) from None
        except RecursionError:
            raise DataError(path, f"{key!r} is nested too deeply to be read; correct the row", number) from None
        except ValueError as error:
            said = str(error).partition(";")[0]  # what follows is advice on a setting of Python
            raise DataError(path, f"{key!r} cannot be read: {said}; correct the row", number) from None
    return record


def _members(line: str) -> list[tuple[str, str]] | None:
    """Keys of an object and the texts of their values, at any depth and length; None if it is not an object.

    A value is parsed only as far as needed to find its end.
    """
    tokens = [(found.group(), found.start(), found.end()) for found in TOKEN.finditer(line)]
    if len(tokens) < 2 or tokens[0][0] != "{" or tokens[-1][0] != "}":
        return None
    members: list[tuple[str, str]] = []
    place = 1
    while place < len(tokens) - 1:
        key = tokens[place][0]
        if len(key) < 2 or not key.startswith('"') or tokens[place + 1][0] != ":" or place + 2 >= len(tokens) - 1:
            return None
        after = _after_value(tokens, place + 2)
        if (
            after is None
            or tokens[after][0] not in (",", "}")
            or (tokens[after][0] == "}") != (after == len(tokens) - 1)
        ):
            return None
        try:
            members.append((json.loads(key), line[tokens[place + 2][1] : tokens[after - 1][2]]))
        except ValueError:
            return None
        place = after + 1
    return members


def _after_value(tokens: list[tuple[str, int, int]], place: int) -> int | None:
    """Index of the token after the value that begins at `place`; None if brackets do not match."""
    open_brackets: list[str] = []
    for here in range(place, len(tokens) - 1):
        token = tokens[here][0]
        if token in CLOSERS:
            open_brackets.append(CLOSERS[token])
        elif token in ("]", "}") and (not open_brackets or open_brackets.pop() != token):
            return None
        if not open_brackets:
            return here + 1
    return None


def _each_key_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object. Raises ValueError for a duplicate key, of which Python would take the last."""
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r} is given more than once")
    return found


def _lines(file: Iterator[str]) -> Iterator[str]:
    """Lines between line feeds; the file's own iterator also splits at a lone carriage return."""
    kept: list[str] = []
    for piece in file:
        kept.append(piece)
        if piece.endswith("\n"):
            yield "".join(kept)
            kept.clear()
    if kept:
        yield "".join(kept)
