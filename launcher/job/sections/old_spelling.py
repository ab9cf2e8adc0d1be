"""Adapters as jobs of 0.1.0 spell them: as a method, `lora`, with a key for each kind of them."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any

OLD_METHOD = "lora"
MOVED = ("rank", "alpha", "dropout", "targets", "quantised", "merge")


def is_old(adapt: object) -> bool:
    """Whether an `adapt` section is spelt so."""
    return isinstance(adapt, Mapping) and adapt.get("method") == OLD_METHOD


def respelt(adapt: Mapping[str, Any]) -> dict[str, Any]:
    """The same with adapters alongside the method, which is plain fine-tuning; B·A counts as much as before."""
    rest = {name: value for name, value in adapt.items() if name != "method"}
    is_stabilised, has_lengths = rest.pop("rank_stabilised", False) is True, rest.pop("dora", False) is True
    kind = "dora" if has_lengths else "rslora" if is_stabilised else "lora"
    moved = {name: rest.pop(name) for name in MOVED if name in rest}
    if has_lengths and is_stabilised:  # no kind of today's is both: alpha / √rank is (alpha · √rank) / rank
        rank, alpha = moved.get("rank", 8), moved.get("alpha", 16.0)
        if all(isinstance(value, int | float) and value > 0 for value in (rank, alpha)):
            moved["alpha"] = alpha * sqrt(rank)
    return {"adapters": {"kind": kind, **moved}, **rest}
