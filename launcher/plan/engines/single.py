"""One process that holds everything."""

from __future__ import annotations

from launcher.plan.engines.facts import EngineFacts, Sharding
from launcher.plan.memory import Demand, Memory, whole_on_each


def _memory(need: Demand) -> Memory:
    return whole_on_each(need, allocated_late=need.learning)


class Single(EngineFacts):
    """Facts on `launcher/engines/single.py`."""

    name = "single"
    shardings = (Sharding("single", {"name": "single"}, _memory),)
    most = 1
    chosen_by_auto = True
