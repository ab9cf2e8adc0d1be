"""Which splits a folder saved by `datasets` holds."""

from __future__ import annotations

import json
from pathlib import Path

DICTIONARY = "dataset_dict.json"
TRAINING = "train"
"""The split that is trained on where none is named."""


def splits_of(place: str | Path) -> tuple[str, ...]:
    """The splits, where there are several to choose from; empty for anything else, and for a damaged folder."""
    try:
        found = json.loads((Path(place) / DICTIONARY).read_text(encoding="utf-8"))["splits"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ()
    return tuple(map(str, found)) if isinstance(found, list) and len(found) > 1 else ()


def likely(splits: tuple[str, ...], is_training: bool) -> str:
    """The split that is most likely meant."""
    if is_training:
        return TRAINING if TRAINING in splits else splits[0]
    wanted = ("validation", "valid", "val", "dev", "eval", "test")
    return next((name for name in wanted if name in splits), splits[-1])
