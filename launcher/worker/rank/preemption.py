"""Stopping on request: in the training loop, a request to any rank is a vote in each step's all-reduce."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from launcher.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_TO_POSTPONE = 0.05
MARGIN = 20.0
"""Seconds that should be left after the last save before the scheduler's time limit."""
FIRST_SAVE = 60.0
"""Assumed seconds of a save before one was measured."""
MOST = 0.3
"""Maximum share of the time limit for both together, before a save was measured."""


class StopAgreed(Exception):
    """All ranks have agreed to stop, in the middle of an evaluation."""


class StopRequest:
    """Whether this rank was asked to stop: by a signal, by the run's stop file, or by the time limit.

    raised: the exception raised by a signal, which a library may have swallowed
    """

    def __init__(self) -> None:
        self.raised: Stopped | None = None
        self._signalled = self._postponed = self._found = self._deferring = False
        self._file: Path | None = None
        self._ends: float | None = None
        self._had = self._saving = 0.0
        self._looked = float("-inf")

    def listen(self) -> None:
        """Handle SIGTERM, SIGINT and SIGUSR1 as requests to stop."""
        for number in SIGNALS:
            signal.signal(number, self._ask)

    def watch(self, file: Path, ends: float | None) -> None:
        """Stop when a file appears, or near a scheduler's time limit (seconds since the epoch)."""
        self._file, self._ends = file, ends
        self._had = 0.0 if ends is None else max(0.0, ends - time.time())

    def saving_took(self, seconds: float) -> None:
        """Record a save's duration; enough time is left for the slowest so far."""
        self._saving = max(self._saving, seconds)

    @property
    def asked(self) -> bool:
        """Whether to stop; the file and the clock are polled now and then."""
        if not (self._signalled or self._found) and time.monotonic() - self._looked >= SECONDS_BETWEEN_LOOKS:
            self._looked = time.monotonic()
            self._found = (self._file is not None and self._file.exists()) or self._time_is_up()
        return self._signalled or self._found

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """The first signal within this context only sets `asked`; a second one, or one outside, raises Stopped."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def _time_is_up(self) -> bool:
        """Whether the time left is only enough for two saves, since one may be in flight when the last begins."""
        needed = 2 * self._saving + MARGIN if self._saving else min(2 * FIRST_SAVE + MARGIN, MOST * self._had)
        return self._ends is not None and time.time() + needed >= self._ends

    def _ask(self, number: int, frame: FrameType | None) -> None:
        is_second = self._signalled and not self._postponed
        self._signalled = True  # for the next vote, if Python cannot propagate the exception
        self._postponed = False
        if self._deferring and not is_second:
            return
        if _is_importing(frame):
            self._postponed = True
            _send_again(number)
            return
        self.raised = Stopped(
            "stopped at once; the same command resumes from the last complete checkpoint, or from the beginning"
        )
        raise self.raised


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported; an interruption could leave a partial module or a held import lock."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _send_again(number: int) -> None:
    """Send this process the signal again, a moment later."""
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(SECONDS_TO_POSTPONE, signal.pthread_kill, (main, number))
    timer.daemon = True
    timer.start()
