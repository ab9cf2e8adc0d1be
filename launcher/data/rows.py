"""One row of a data file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """A row as read: its place, for messages, and the values asked for by role.

    file: where it was read from
    number: 1 for the first sample of the file after any header
    values: role (`text`, `label`) to the value as the file holds it
    """

    file: str
    number: int
    values: Mapping[str, object]
