"""The speed between machines, and which of them is slow."""

from __future__ import annotations

import pytest

from launcher.worker.rank.network_check import NetworkSpeeds
from launcher.worker.rank.world import World
from tests.worlds import Worlds


def measured(rank: int, size: int) -> NetworkSpeeds:
    """Two ranks a machine, but for the last."""
    return NetworkSpeeds.measured(World(rank, rank, size), f"n{rank // 2}" if size > 3 else f"n{rank}")


@pytest.mark.parametrize(("size", "nodes"), [(1, 1), (2, 2), (3, 3), (4, 2)])
def test_every_rank_knows_the_same_speed_of_each_link(size: int, nodes: int, worlds: Worlds) -> None:
    found = worlds.run(size, measured)
    assert len(set(found)) == 1
    assert found[0].nodes == tuple(f"n{number}" for number in range(nodes))
    assert found[0].all_reduce > 0
    assert len(found[0].ring) == (nodes if nodes > 1 else 0)
    assert all(speed > 0 for speed in found[0].ring)


@pytest.mark.parametrize(
    ("ring", "slow"),
    [
        ((1.0, 1.1, 0.9, 1.0), ()),
        ((1.0, 0.1, 0.1, 1.0), ("n2",)),
        ((0.1, 1.0, 1.0, 0.1), ("n0",)),
        ((0.1, 1.0, 0.1), ("n0",)),
        ((1.0, 0.1, 1.0, 1.0), ()),
        ((0.1, 0.1), ()),
        ((), ()),
    ],
)
def test_a_machine_is_slow_where_both_of_its_links_are(ring: tuple[float, ...], slow: tuple[str, ...]) -> None:
    nodes = tuple(f"n{number}" for number in range(max(1, len(ring))))
    assert NetworkSpeeds(nodes, 1.0, ring).slow_nodes == slow
