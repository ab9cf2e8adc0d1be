"""Requests to stop, on the side of whoever started the ranks: signals and the run's stop file, passed on to them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from launcher.errors import Stopped
from launcher.supervise.fork_server import ForkedRank

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopRequests:
    """How often a stop was asked for. The first lets the ranks save and end, a second one makes them end at once.

    They are passed on to the processes that run now and to those that start later, so that none is lost between
    two of them.
    """

    def __init__(self) -> None:
        self._signals = 0
        self._file: Path | None = None
        self._found = False
        self._passed_on: dict[int, int] = {}

    @contextmanager
    def listening(self, *, last: bool = False) -> Iterator[StopRequests]:
        """Inside, signals are counted; what they did before is put back at the end.

        last: whether the process only has to end then; a signal comes too late to change how, and is ignored
        Python passes signals to the main thread alone, so that in another none are counted.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return

        def count(number: int, frame: object) -> None:
            self._signals += 1

        before = {number: signal.signal(number, count) for number in SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_IGN if last else handler)

    def watch(self, file: Path) -> None:
        """Take this file, once it is there, as a first request."""
        self._file = file

    @property
    def count(self) -> int:
        """Requests so far."""
        self._found = self._found or (self._file is not None and self._file.exists())
        return max(self._signals, int(self._found))

    def check(self) -> None:
        """Raise Stopped where a stop was asked for: nothing runs that could save."""
        if self.count:
            raise Stopped("stopped before the ranks were started; the same command starts them")

    def pass_on(self) -> None:
        """Tell each child of this process as often as this one was told."""
        if self.count:
            for process in (*(child.pid for child in psutil.Process().children()), *ForkedRank.alive):
                self.pass_on_to(process)

    def pass_on_to(self, process: int) -> None:
        """Tell one process, by its number, as often as this one was told."""
        count = self.count
        if self._passed_on.get(process, 0) < count:
            self._passed_on[process] = count
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)
