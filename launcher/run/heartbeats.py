"""What each rank is doing, for whoever started it: a few bytes of memory that both sides map, on the rank's machine.

A beat costs no system call, so there is one for each micro-batch and each collective of the loop.
"""

from __future__ import annotations

import mmap
import os
import shutil
import signal
import struct
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from launcher.run.folder import RunFolder
from launcher.run.scratch import scratch

DUMP_STACKS = signal.SIGUSR2
"""On this signal a rank writes the stacks of all its threads to its log."""

_LAYOUT = struct.Struct("<qqqdd32s32s")
_NAME = 32


@dataclass(frozen=True)
class Beat:
    """The last sign of life of a rank.

    beats: in this phase, whenever it was entered
    step: the optimizer step that is being made, 0 before the first
    at: when, by this machine's monotonic clock
    longest: seconds between two beats of this phase, at most, whenever it was entered
    phase: as in the events
    collective: what it waits for together with the others, empty outside of any
    """

    pid: int
    beats: int
    step: int
    at: float
    longest: float
    phase: str
    collective: str

    def __str__(self) -> str:
        words = [self.phase or "starting"]
        if self.step:
            words.append(f"step {self.step}")
        if self.collective:
            words.append(f"in the {self.collective}")
        return ", ".join(words)


class Pulse:
    """This rank's beats. Without a file it is silent: nobody watches a run that was started by hand."""

    def __init__(self, file: Path | None = None) -> None:
        self._memory: mmap.mmap | None = None
        self._phase, self._step, self._collective = "", 0, ""
        self._beats: Counter[str] = Counter()
        self._longest: defaultdict[str, float] = defaultdict(float)
        self._at = time.monotonic()
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("w+b") as opened:
                opened.truncate(_LAYOUT.size)
                self._memory = mmap.mmap(opened.fileno(), _LAYOUT.size)
            self._write()

    def enter(self, phase: str) -> None:
        """A phase begins, or goes on, with a measure of its own."""
        self._phase = phase
        self._at = time.monotonic()
        self._write()

    def beat(self, step: int | None = None) -> None:
        """Something was done."""
        now = time.monotonic()
        self._longest[self._phase] = max(self._longest[self._phase], now - self._at)
        self._at = now
        self._beats[self._phase] += 1
        self._step = self._step if step is None else step
        self._write()

    @contextmanager
    def waiting(self, collective: str) -> Iterator[None]:
        """Inside, this rank waits for others."""
        self._collective = collective
        self.beat()
        yield
        self._collective = ""  # what fails in it stays in it
        self.beat()

    def now(self) -> Beat:
        """The last beat."""
        beats, longest = self._beats[self._phase], self._longest[self._phase]
        return Beat(os.getpid(), beats, self._step, self._at, longest, self._phase, self._collective)

    def _write(self) -> None:
        if self._memory is not None:
            now = self.now()
            names = (now.phase.encode()[:_NAME], now.collective.encode()[:_NAME])
            numbers = (now.pid, now.beats, now.step, now.at, now.longest)
            self._memory[:] = _LAYOUT.pack(*numbers, *names)


def heartbeat_file(folder: RunFolder, rank: int) -> Path:
    """Where a rank's beats are, on its own machine: a network's file system would be asked at each beat."""
    return scratch(folder, "beats") / f"rank-{rank}"


def forget_heartbeats(folder: RunFolder) -> None:
    """Remove what ranks on this machine left."""
    shutil.rmtree(heartbeat_file(folder, 0).parent, ignore_errors=True)


def read_heartbeats(folder: RunFolder) -> dict[int, Beat]:
    """The last beat of each rank on this machine."""
    found = {}
    for file in heartbeat_file(folder, 0).parent.glob("rank-*"):
        with file.open("rb") as opened:
            held = opened.read(_LAYOUT.size)
        if len(held) == _LAYOUT.size:
            *numbers, phase, collective = _LAYOUT.unpack(held)
            names = (name.rstrip(b"\0").decode(errors="replace") for name in (phase, collective))
            found[int(file.name.removeprefix("rank-"))] = Beat(*numbers, *names)
    return found
