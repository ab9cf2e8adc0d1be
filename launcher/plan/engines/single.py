"""One process that holds everything."""

from __future__ import annotations

from launcher.plan.engines.facts import EngineFacts, Sharding
from launcher.plan.memory import whole_on_each


class Single(EngineFacts):
    """Facts on `launcher/engines/single.py`."""

    name = "single"
    shardings = (Sharding("single", {"name": "single"}, whole_on_each),)
    most = 1
    chosen_by_auto = True
