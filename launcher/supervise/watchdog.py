"""Noticing ranks that are alive and do nothing: their stacks are written to their logs, and they are ended."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

from launcher.errors import ExitCode, Hung
from launcher.run.failures import Failure, report_failure
from launcher.run.folder import RunFolder
from launcher.run.heartbeats import DUMP_STACKS, Beat
from launcher.supervise.stacks import Stack, dumped_stack

TIMES_THE_LONGEST = 10.0
"""A rank is hung when it has been silent for so many times its longest silence in the same phase."""
MEASURED = 3
"""Beats of a phase that make a measure; before that, and in phases without beats, a collective's time-out counts."""
SECONDS_FOR_STACKS = 1.0
SECONDS_FOR_THE_CULPRIT = 10.0
"""Where all silent ranks wait for others, the one that hangs may soon be silent too, here or on another machine."""
UNLIMITED = ("preparing", "comparing")
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
    _stacks: dict[int, Stack] = field(default_factory=dict, init=False)
    _dumped_for: frozenset[int] = field(default=frozenset(), init=False)
    _ended: bool = field(default=False, init=False)

    def look(self, beats: Mapping[int, Beat]) -> None:
        """End the ranks of this machine where one of them is hung, and report which.

        beats: the last one of each
        """
        if self._ended:
            return
        silent = {rank: beat for rank, beat in beats.items() if self.is_silent(beat) and psutil.pid_exists(beat.pid)}
        if not silent:
            return
        suspects = {rank: beat for rank, beat in beats.items() if self.clock() - beat.at > self.patience} | silent
        if suspects.keys() != self._dumped_for:
            self._dumped_for, self._stacks = frozenset(suspects), self._dump_stacks(beats)
        rank = culprit(suspects, self._stacks)
        waited = waits_for_others(rank, suspects[rank], self._stacks)
        if waited and not any(self.is_silent(beat, SECONDS_FOR_THE_CULPRIT) for beat in silent.values()):
            return
        self._ended = True
        self._leave_word(rank, suspects[rank], waited)
        for beat in beats.values():
            with suppress(ProcessLookupError):
                os.kill(beat.pid, signal.SIGKILL)

    def is_silent(self, beat: Beat, longer: float = 0.0) -> bool:
        """Whether a rank has done nothing for longer than it may, and `longer` seconds more."""
        return self.clock() - beat.at > self.allowed(beat) + longer

    def allowed(self, beat: Beat) -> float:
        """Seconds of silence that a rank may keep."""
        if beat.phase in UNLIMITED:
            return float("inf")
        if beat.beats < MEASURED:
            return max(self.timeout, self.patience)
        return max(self.patience, TIMES_THE_LONGEST * beat.longest)

    def _leave_word(self, rank: int, beat: Beat, waited: bool) -> None:
        stopped = "; the process is stopped (SIGSTOP)" if _is_stopped(beat.pid) else ""
        message = f"no progress for {self.clock() - beat.at:.0f} s in {beat}{stopped}"
        where = f"its stack, innermost call first:\n{self._stacks[rank]}\n" if rank in self._stacks else ""
        trace = f"{where}the stacks of the ranks of this machine: {self.folder.log(rank).parent}/rank-*.log"
        failure = Failure.now(rank, Hung.__name__, message, trace, int(ExitCode.FAILED))
        report_failure(self.folder, replace(failure, step=beat.step, doing=str(beat), follows=waited), self.start)

    def _dump_stacks(self, beats: Mapping[int, Beat]) -> dict[int, Stack]:
        """Let all ranks of this machine write their stacks to their logs; those that are stopped write none."""
        sizes = {rank: _size(self.folder.log(rank)) for rank in beats}
        for beat in beats.values():
            with suppress(ProcessLookupError):
                os.kill(beat.pid, DUMP_STACKS)
        time.sleep(SECONDS_FOR_STACKS)
        found = {rank: dumped_stack(self.folder.log(rank), sizes[rank]) for rank in beats}
        return {rank: stack for rank, stack in found.items() if stack is not None}


def culprit(suspects: Mapping[int, Beat], stacks: Mapping[int, Stack]) -> int:
    """The rank that the others wait for: a stopped process, else one that waits for nobody, else the latest."""

    def order(item: tuple[int, Beat]) -> tuple[bool, bool, int, float]:
        rank, beat = item
        return not _is_stopped(beat.pid), waits_for_others(rank, beat, stacks), beat.step, beat.at

    return min(suspects.items(), key=order)[0]


def waits_for_others(rank: int, beat: Beat, stacks: Mapping[int, Stack]) -> bool:
    """Whether a rank is in a collective, as its last beat says or its stack; a stopped process is in none."""
    in_collective = bool(beat.collective) or (rank in stacks and stacks[rank].waits_for_others)
    return in_collective and not _is_stopped(beat.pid)


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _is_stopped(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.NoSuchProcess:
        return False
