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


def read_delimited(path: Path, encoding: str, columns: Mapping[str, str]) -> Iterator[tuple[int, dict[str, object]]]:
    """Number and values by role of each row. Raises DataError."""
    with opened_text(path, encoding) as file:
        reader = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        records = _checked(path, reader)
        header = next(records, None)
        if header is None:
            raise DataError(path, "the file is empty; it needs a header and at least one row")
        places = {role: header.index(name) for role, name in resolve_columns(path, header, columns).items()}
        number = 0
        for number, record in enumerate(records, start=1):
            if len(record) != len(header):
                raise DataError(
                    path,
                    f"{len(record)} fields where the header has {len(header)}; quote fields that hold the separator",
                    number,
                )
            yield number, {role: record[place] for role, place in places.items()}
        if number == 0:
            raise DataError(path, "there is a header and no row; at least one sample is needed")


def _checked(path: Path, reader: Iterator[list[str]]) -> Iterator[list[str]]:
    """The records without blank lines."""
    number = -1
    try:
        for record in reader:
            if record:
                number += 1
                yield record
    except csv.Error as error:
        raise DataError(path, f"not a valid csv row: {error}", number + 1) from None
