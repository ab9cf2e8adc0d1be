"""Stopping on request: inside the training loop a signal to any rank becomes one vote in each step's all-reduce."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from launcher.errors import Stopped


class StopRequest:
    """Whether this rank was asked to stop."""

    def __init__(self) -> None:
        self.asked = self._deferring = False

    def listen(self) -> None:
        """Take SIGTERM, SIGINT and SIGUSR1 as the request."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._ask)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, the first request only sets `asked`; a second one, and any outside, raises Stopped at once."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if not self._deferring or self.asked:
            raise Stopped("stopped at once; the same command goes on from the last complete checkpoint, or afresh")
        self.asked = True
