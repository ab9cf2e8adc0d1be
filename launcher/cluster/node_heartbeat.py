"""Each node's sign of life in the run's folder, for the batch script's lookout."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass, field

from launcher.run.folder import RunFolder, read_json, write_whole

SECONDS_BETWEEN_SIGNS = 5.0


@dataclass
class NodeHeartbeat:
    """One node's signs; `tell` is called a few times a second."""

    folder: RunFolder
    node: str
    start: int = 0
    _told: float = field(default=float("-inf"), init=False)

    def tell(self, ended: bool = False) -> None:
        """Say that this node is there, or that its ranks have ended; a full disk leaves it silent."""
        now = time.monotonic()
        if ended or now - self._told >= SECONDS_BETWEEN_SIGNS:
            self._told = now
            values = {"node": self.node, "time": time.time(), "ended": ended}
            with suppress(OSError):
                write_whole(self.folder.logs / f"start-{self.start}.{self.node}.presence.json", json.dumps(values))


@dataclass(frozen=True)
class Sign:
    """The last sign of one node; `time` in seconds since the epoch."""

    node: str
    time: float
    ended: bool


def signs(folder: RunFolder, start: int) -> list[Sign]:
    """The last signs of the nodes of one start."""
    files = folder.logs.glob(f"start-{start}.*.presence.json")
    values = [found for file in files if (found := read_json(file)) is not None]
    return [Sign(**found) for found in values if found.keys() == {"node", "time", "ended"}]
