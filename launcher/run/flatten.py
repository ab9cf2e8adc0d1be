"""Nested values under dotted names: `{"train": {"epochs": 3}}` is `train.epochs: 3`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from launcher.run.environment import redacted

Value = str | int | float | bool


def flat(values: Mapping[str, Any]) -> dict[str, Value]:
    """Numbers and truth values as they are, all else as text, a list as JSON; secrets are struck out."""
    return dict(_below(values, ""))


def _below(value: Any, path: str) -> Iterator[tuple[str, Value]]:
    if isinstance(value, Mapping) and (value or not path):
        for name, below in value.items():
            yield from _below(below, f"{path}.{name}" if path else str(name))
    elif isinstance(value, bool | int | float):
        yield path, value
    else:
        yield path, redacted(value if isinstance(value, str) else json.dumps(value))
