"""Stopping on request: a signal to any rank becomes one vote in the all-reduce of each step."""

from __future__ import annotations

import signal
from types import FrameType


class StopRequest:
    """Whether this rank was asked to stop. A second request stops at once."""

    def __init__(self) -> None:
        self.asked = False

    def listen(self) -> None:
        """Take SIGTERM, SIGINT and SIGUSR1 as the request."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
