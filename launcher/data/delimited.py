"""Rows of csv and tsv files. Only a line feed or carriage return outside quotes ends a row."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from launcher.data.decoding import opened_text
from launcher.data.rows import resolve_columns
from launcher.errors import DataError

csv.field_size_limit(sys.maxsize)


def read_delimited(
    path: Path, encoding: str, columns: Mapping[str, str], quoting: bool | None = None
) -> Iterator[tuple[int, dict[str, object]]]:
    """Number and values by role of each row. Raises DataError.

    quoting: whether a field that begins with a double quote ends with one and may contain separators and line ends;
    None: True for csv files and False for tsv files, in which a quote is an ordinary character
    """
    is_tsv = path.suffix.lower() == ".tsv"
    quoted = not is_tsv if quoting is None else quoting
    with opened_text(path, encoding) as file:
        reader = csv.reader(
            file,
            delimiter="\t" if is_tsv else ",",
            strict=True,
            quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        )
        records = _checked(path, reader, quoted)
        header = next(records, None)
        if header is None:
            raise DataError(path, "the file is empty; it needs a header and at least one row")
        places = {role: header.index(name) for role, name in _resolved(path, header, columns, quoted).items()}
        number = 0
        for number, record in enumerate(records, start=1):
            if len(record) != len(header):
                raise DataError(path, _ragged(record, header, quoted), number)
            yield number, {role: record[place] for role, place in places.items()}
        if number == 0:
            raise DataError(path, "there is a header and no rows; at least one sample is needed")


def _resolved(path: Path, header: list[str], columns: Mapping[str, str], quoted: bool) -> dict[str, str]:
    try:
        return resolve_columns(path, header, columns)
    except DataError as error:
        if quoted or not any(f'"{name}"' in header for name in columns.values()):
            raise
        fault = "the column names are quoted, and quotes are ordinary characters in a tsv file by default"
        raise DataError(path, f"{fault}; set `quoting: true`") from error


def _ragged(record: list[str], header: list[str], quoted: bool) -> str:
    fault = f"{len(record)} fields where the header has {len(header)}"
    if quoted:
        return f"{fault}; quote fields that contain the separator"
    if any(field.startswith('"') for field in record):
        return f"{fault}; if fields with line ends or separators are quoted, set `quoting: true`"
    return f"{fault}; a field cannot contain the separator or a line end without quotes (`quoting: true`)"


def _checked(path: Path, reader: Iterator[list[str]], quoted: bool) -> Iterator[list[str]]:
    """The records, without blank lines."""
    number = -1
    try:
        for record in reader:
            if record:
                number += 1
                yield record
    except csv.Error as error:
        advice = "; if quotes are ordinary characters in this file, set `quoting: false`" if quoted else ""
        raise DataError(path, f"not a valid csv row: {error}{advice}", number + 1) from None
