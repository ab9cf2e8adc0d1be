"""Noticing ranks that are alive and do nothing: their stacks are written to their logs, and they are ended."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from launcher.errors import ExitCode, Hung
from launcher.run.failures import Failure, leave_word
from launcher.run.folder import RunFolder
from launcher.run.heartbeats import DUMP_STACKS, Beat, read_heartbeats

TIMES_THE_LONGEST = 10.0
"""A rank is hung when it has been silent for so many times its longest silence in the same phase."""
MEASURED = 3
"""Beats of a phase that make a measure; before that, and in phases without beats, a collective's time-out counts."""
SECONDS_FOR_STACKS = 1.0
UNLIMITED = ("preparing",)
"""Phases in which ranks wait for one that works through all of the data."""


@dataclass
class Watchdog:
    """Watches the ranks of one start on this machine.

    patience: seconds of silence that are allowed at least
    timeout: seconds of silence that are allowed where nothing was measured yet
    """

    folder: RunFolder
    start: int
    patience: float
    timeout: float
    clock: Callable[[], float] = time.monotonic
    _ended: bool = field(default=False, init=False)

    def look(self) -> None:
        """End the ranks of this machine where one of them is hung, and leave word of which."""
        if self._ended:
            return
        beats = read_heartbeats(self.folder)
        silent = {rank: beat for rank, beat in beats.items() if self.is_silent(beat) and psutil.pid_exists(beat.pid)}
        if silent:
            self._ended = True
            self._end(silent, beats)

    def is_silent(self, beat: Beat) -> bool:
        """Whether a rank has done nothing for longer than it may."""
        return self.clock() - beat.at > self.allowed(beat)

    def allowed(self, beat: Beat) -> float:
        """Seconds of silence that a rank may keep."""
        if beat.phase in UNLIMITED:
            return float("inf")
        if beat.beats < MEASURED:
            return max(self.timeout, self.patience)
        return max(self.patience, TIMES_THE_LONGEST * beat.longest)

    def _end(self, silent: Mapping[int, Beat], beats: Mapping[int, Beat]) -> None:
        rank = culprit(silent)
        beat = silent[rank]
        stopped = "; the process is stopped (SIGSTOP)" if _is_stopped(beat.pid) else ""
        for other in beats.values():
            with suppress(ProcessLookupError):
                os.kill(other.pid, DUMP_STACKS)
        time.sleep(SECONDS_FOR_STACKS)
        message = (
            f"no progress for {self.clock() - beat.at:.0f} s in {beat}{stopped}; up to {self.allowed(beat):.0f} s are "
            "allowed there"
        )
        trace = f"the stacks of the ranks of this machine: {self.folder.log(rank).parent}/rank-*.log"
        failure = Failure.now(rank, Hung.__name__, message, trace, int(ExitCode.FAILED))
        leave_word(self.folder, failure, self.start)
        for other in beats.values():
            with suppress(ProcessLookupError):
                os.kill(other.pid, signal.SIGKILL)


def culprit(silent: Mapping[int, Beat]) -> int:
    """The rank that the others wait for: a stopped process, else one outside of any collective, else the latest."""

    def order(item: tuple[int, Beat]) -> tuple[bool, bool, int, float]:
        _, beat = item
        return not _is_stopped(beat.pid), bool(beat.collective), beat.step, beat.at

    return min(silent.items(), key=order)[0]


def _is_stopped(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.NoSuchProcess:
        return False
