"""The whole model on each process."""

from __future__ import annotations

from launcher.plan.engines.facts import EngineFacts, Sharding
from launcher.plan.memory import whole_on_each


class Ddp(EngineFacts):
    """Facts on `launcher/engines/ddp.py`."""

    name = "ddp"
    shardings = (Sharding("ddp", {"name": "ddp"}, whole_on_each),)
    fewest = 2
    chosen_by_auto = True
