"""What each rank is doing, for whoever started it: a few bytes of memory that both sides map, on the rank's machine.

A beat costs no system call, so there is one for each micro-batch and each collective of the loop. The memory has no
name by which anybody else could open it, and is gone with the last process that has it.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

DUMP_STACKS = signal.SIGUSR2
"""On this signal a rank writes the stacks of all its threads to its log."""

HEARTBEAT = "ADAPTRUN_HEARTBEAT"
"""Tells a rank where its beats go: the file descriptor of the memory, and the place in it."""

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


class Heartbeat:
    """This rank's beats. Without memory it is silent: nobody watches a run that was started by hand.

    place: of this rank in the memory
    """

    def __init__(self, memory: mmap.mmap | None = None, place: int = 0) -> None:
        self._memory, self._place = memory, place
        self._phase, self._step, self._collective = "", 0, ""
        self._beats: Counter[str] = Counter()
        self._longest: defaultdict[str, float] = defaultdict(float)
        self._at = time.monotonic()
        self._write()

    @classmethod
    def here(cls) -> Heartbeat:
        """Of the rank that this process is: in the memory that its launcher has handed on, if one has."""
        address = os.environ.pop(HEARTBEAT, "")
        if not address:
            return cls()
        descriptor, place = (int(number) for number in address.split(":"))
        memory = mmap.mmap(descriptor, 0)
        os.close(descriptor)
        return cls(memory, place)

    def enter(self, phase: str) -> None:
        """A phase begins, or continues, with a measure of its own."""
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
            begin = self._place * _LAYOUT.size
            self._memory[begin : begin + _LAYOUT.size] = _LAYOUT.pack(*numbers, *names)


class Heartbeats:
    """The memory of the ranks of one machine, on the side of their launcher.

    first, count: the ranks
    """

    def __init__(self, first: int, count: int) -> None:
        self._first, self._count = first, count
        self.descriptor = _nameless_file(count * _LAYOUT.size)
        self._memory = mmap.mmap(self.descriptor, 0)

    def address_of(self, rank: int) -> str:
        """The value of `HEARTBEAT` for a rank, which also inherits the descriptor."""
        return f"{self.descriptor}:{rank - self._first}"

    def read(self) -> dict[int, Beat]:
        """The last beat of each rank that has given one."""
        found = {}
        for place in range(self._count):
            *numbers, phase, collective = _LAYOUT.unpack_from(self._memory, place * _LAYOUT.size)
            names = (name.rstrip(b"\0").decode(errors="replace") for name in (phase, collective))
            beat = Beat(*numbers, *names)
            if beat.pid:
                found[self._first + place] = beat
        return found

    def close(self) -> None:
        """Give the memory up on this side."""
        self._memory.close()
        os.close(self.descriptor)


def _nameless_file(size: int) -> int:
    """Descriptor of a file of zeros that no path leads to, in memory where the system can."""
    try:
        descriptor = os.memfd_create("adaptrun-heartbeats")
    except (AttributeError, OSError):  # macOS, or a container that forbids it
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.pwrite(descriptor, bytes(size), 0)
    return descriptor
