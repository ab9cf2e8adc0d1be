"""Grids that prove one idea many times: some cases run each time, the others where `slow` tests do."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def thinned(cases: Iterable[Any], fast: Collection[Any]) -> list[Any]:
    """The cases for `parametrize`, a tuple for several arguments; those that are not `fast` are marked `slow`."""
    return [case if case in fast else _slow(case) for case in cases]


def every(number: int, cases: Iterable[Any]) -> list[Any]:
    """The same, where each so-manieth case is fast, the first among them."""
    return [_slow(case) if place % number else case for place, case in enumerate(cases)]


def _slow(case: Any) -> Any:
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
