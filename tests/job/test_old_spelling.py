"""Adapters as 0.1.0 spelt them count as much in today's spelling."""

from __future__ import annotations

from math import sqrt

import pytest

from launcher.job.sections.adapters import LowRank
from launcher.job.sections.old_spelling import respelt

OLD = {"method": "lora", "rank": 4, "alpha": 6.0, "l2_sp": 0.0}


@pytest.mark.parametrize(
    ("flags", "kind", "scale"),
    [
        ({}, "lora", 6.0 / 4),
        ({"rank_stabilised": True}, "rslora", 6.0 / sqrt(4)),
        ({"dora": True}, "dora", 6.0 / 4),
        ({"dora": True, "rank_stabilised": True}, "dora", 6.0 / sqrt(4)),
    ],
    ids=["plain", "stabilised", "lengths", "both"],
)
def test_the_factor_of_the_adapters_stays(flags: dict[str, bool], kind: str, scale: float) -> None:
    found = respelt(OLD | flags)
    adapters = LowRank.model_validate(found.pop("adapters"))
    root = sqrt(adapters.rank) if adapters.is_rank_stabilised else adapters.rank
    assert (adapters.kind, adapters.alpha / root) == (kind, pytest.approx(scale))
    assert found == {"l2_sp": 0.0}
