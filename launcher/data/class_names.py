"""Class names that a parquet file of `datasets` stores in its schema metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def class_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """The class names of each column of classes, or of lists of them, from a parquet file's schema metadata."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"].items()
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
    return {str(column): names for column, feature in features if (names := _names(feature)) is not None}


def _names(feature: Any) -> list[str] | None:
    """The names of a `ClassLabel`, or of a list of it."""
    inner = feature[0] if isinstance(feature, list) and feature else feature
    inner = inner.get("feature", inner) if isinstance(inner, dict) else None
    if not isinstance(inner, dict) or inner.get("_type") != "ClassLabel" or not isinstance(inner.get("names"), list):
        return None
    return [str(name) for name in inner["names"]]
