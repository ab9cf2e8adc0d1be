"""The whole model on each process; gradients are added up when all of a step are there."""

from __future__ import annotations

from launcher.plan.engines.facts import EngineFacts, Sharding
from launcher.plan.memory import whole_on_each


class AllReduce(EngineFacts):
    """As `launcher/engines/all_reduce.py` runs it."""

    name = "all_reduce"
    shardings = (Sharding("all_reduce", {"name": "all_reduce"}, whole_on_each),)
    fewest = 2
