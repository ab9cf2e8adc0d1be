"""Each node's heartbeat in the run's folder, which the watchdog of srun reads."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass, field

from launcher.run.folder import RunFolder, read_json, write_whole

SECONDS_BETWEEN_HEARTBEATS = 5.0


@dataclass
class HeartbeatWriter:
    """Writes the heartbeats of one node; `write` is called a few times a second."""

    folder: RunFolder
    node: str
    start: int = 0
    _written: float = field(default=float("-inf"), init=False)

    def write(self, ended: bool = False) -> None:
        """Report that this node is alive, or that its ranks have ended; a full disk leaves it silent."""
        now = time.monotonic()
        if ended or now - self._written >= SECONDS_BETWEEN_HEARTBEATS:
            self._written = now
            values = {"node": self.node, "time": time.time(), "ended": ended}
            with suppress(OSError):
                write_whole(self.folder.logs / f"start-{self.start}.{self.node}.heartbeat.json", json.dumps(values))


@dataclass(frozen=True)
class NodeHeartbeat:
    """The last heartbeat of one node; `time` in seconds since the epoch."""

    node: str
    time: float
    ended: bool


def node_heartbeats(folder: RunFolder, start: int) -> list[NodeHeartbeat]:
    """The last heartbeats of the nodes of one attempt."""
    files = folder.logs.glob(f"start-{start}.*.heartbeat.json")
    values = [found for file in files if (found := read_json(file)) is not None]
    return [NodeHeartbeat(**found) for found in values if found.keys() == {"node", "time", "ended"}]
