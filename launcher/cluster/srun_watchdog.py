"""Ends an srun that waits in vain: `python -m launcher.cluster.srun_watchdog RUN PID` in the batch script.

srun learns of its tasks from a daemon on each node. Where that is killed, or its link is cut, srun waits for ever,
while the nodes' own signs of life in the run's folder have long said that they ended, or have stopped.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from launcher.cluster.node_heartbeat import NodeHeartbeat, node_heartbeats
from launcher.run.attempts import Attempt
from launcher.run.folder import RunFolder
from launcher.terminal import write_plainly

PAUSE = 2.0
SECONDS_AFTER_THE_END = 30.0
"""After all nodes have said that their ranks ended."""
SECONDS_OF_SILENCE = 90.0
"""After the last sign of a node whose ranks have not ended."""


@dataclass
class SrunWatchdog:
    """What is known of the nodes of the latest start; times by this machine's monotonic clock."""

    folder: RunFolder
    nodes: int
    _seen: dict[str, tuple[NodeHeartbeat, float]] = field(default_factory=dict)

    def complaint(self, now: float) -> str | None:
        """Why srun is waited for in vain, None where it may still have something to wait for."""
        start = Attempt.read(self.folder)
        if start is None:
            return None
        current = node_heartbeats(self.folder, start.count)
        for sign in current:
            if self._seen.get(sign.node, (None,))[0] != sign:
                self._seen[sign.node] = (sign, now)
        ages = {sign.node: now - self._seen[sign.node][1] for sign in current}
        if len(current) == self.nodes and all(sign.ended for sign in current):
            late = min(ages.values()) > SECONDS_AFTER_THE_END
            return "the ranks of all nodes have ended, and srun did not notice" if late else None
        silent = [sign.node for sign in current if not sign.ended and ages[sign.node] > SECONDS_OF_SILENCE]
        return f"no heartbeat from {', '.join(silent)} for {SECONDS_OF_SILENCE:.0f} s" if silent else None


def lost_file(folder: RunFolder, start: int) -> Path:
    """Why the nodes of a start were given up."""
    return folder.logs / f"start-{start}.lost.txt"


def main() -> None:
    """Watch until srun has ended, or end it."""
    write_plainly()
    parser = argparse.ArgumentParser(prog="launcher.cluster.srun_watchdog")
    parser.add_argument("run", type=Path)
    parser.add_argument("pid", type=int)
    arguments = parser.parse_args()
    folder = RunFolder(arguments.run)
    lookout = SrunWatchdog(folder, folder.plan().nodes)
    while psutil.pid_exists(arguments.pid):
        complaint = lookout.complaint(time.monotonic())
        if complaint is not None:
            start = Attempt.read(folder) or Attempt()
            lost_file(folder, start.count).write_text(f"{complaint}\n", encoding="utf-8")
            print(f"adaptrun: {complaint}; ending this attempt", flush=True)
            with suppress(ProcessLookupError):
                os.kill(arguments.pid, signal.SIGKILL)
            return
        time.sleep(PAUSE)


if __name__ == "__main__":
    main()
