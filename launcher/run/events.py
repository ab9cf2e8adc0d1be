"""The events of a run, one JSON object a line of `metrics.jsonl`.

Rank 0 writes them; the display, the report and `status` read them. After a resume, steps that are
run again are written again: of two events of the same step the later one counts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from os import SEEK_END
from pathlib import Path
from typing import Any, ClassVar

SCHEMA = 1
"""Version of the events. It grows where a field changes its meaning or goes; kinds that are not known are skipped."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened; `time` is in seconds since the epoch."""

    kind: ClassVar[str]
    time: float = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True)
class Began(Event):
    """The ranks are about to be started.

    start: 1 for the first
    cause: `first`, `resumed` (by a person), `requeued` (by the scheduler) or `restart` (after a failure)
    step: the step that it resumes from
    schema: version of the events that follow
    """

    kind = "began"
    start: int
    cause: str
    step: int
    schema: int = SCHEMA


@dataclass(frozen=True, kw_only=True)
class Phase(Event):
    """The run entered a phase: `loading`, `preparing`, `evaluating`, `extracting features`, `training`, `saving`
    (waiting for it), `publishing`, `comparing`, `done` or `stopped`."""

    kind = "phase"
    name: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Progress(Event):
    """How far the current phase is: `done` of `total` of `unit`."""

    kind = "progress"
    done: int
    total: int
    unit: str


@dataclass(frozen=True, kw_only=True)
class Note(Event):
    """A sentence for the person who watches: something was decided, skipped or taken up again."""

    kind = "note"
    text: str


@dataclass(frozen=True, kw_only=True)
class Started(Event):
    """Training begins, or resumes at `step`.

    counted_in: what speed is told in: tokens (and samples), images or sounds
    """

    kind = "started"
    step: int
    total_steps: int
    steps_per_epoch: int
    epochs: int
    processes: int
    counted_in: str = "tokens"


@dataclass(frozen=True, kw_only=True)
class Step(Event):
    """One optimizer step over the global batch.

    loss: weighted mean over the global batch, before the step
    gradient_norm: norm of the whole gradient before clipping
    samples, tokens: in the global batch, padding not counted; no tokens of images and sounds
    seconds: wall time of the step
    memory: bytes of the process (CPU) or of its device (GPU), the largest of the ranks
    """

    kind = "step"
    step: int
    epoch: int
    loss: float
    lr: float
    gradient_norm: float
    samples: int
    tokens: int
    seconds: float
    memory: int


@dataclass(frozen=True, kw_only=True)
class Discarded(Event):
    """A step that was not taken, since its loss or its gradient was not finite; None is what was not.

    samples: rows of the training data, counted from 0
    """

    kind = "discarded"
    step: int
    loss: float | None
    gradient_norm: float | None
    samples: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Evaluated(Event):
    """Every validation set was evaluated after `step` optimizer steps.

    metrics: for each set, each metric's value
    samples: for each set, the count of samples covered
    """

    kind = "evaluated"
    step: int
    metrics: dict[str, dict[str, float]]
    samples: dict[str, int]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Saved(Event):
    """A checkpoint (or the model folder) is complete.

    seconds: from the beginning of the save; training may have gone on meanwhile
    """

    kind = "saved"
    step: int
    path: str
    seconds: float


KINDS: dict[str, type[Event]] = {
    event.kind: event for event in (Began, Phase, Progress, Note, Started, Step, Discarded, Evaluated, Saved)
}


class EventLog:
    """Appends events to a file, each whole line at once. Other ranks than 0 hold a silent one.

    before: called before each event; raises where nothing may be written any more
    """

    def __init__(self, path: Path | None, before: Callable[[], None] = lambda: None) -> None:
        self._before = before
        # unbuffered, so that a line is one write, which others who append cannot cut in two
        self._file = None if path is None else path.open("ab", buffering=0)
        if path is not None and self._file is not None and _ends_in_half_a_line(path):
            self._file.write(b"\n")

    def write(self, event: Event) -> None:
        """Append one event."""
        if self._file is not None:
            self._before()
            self._file.write(f"{json.dumps({'kind': event.kind, **asdict(event)})}\n".encode())

    def note(self, text: str) -> None:
        """Append a note for the user."""
        self.write(Note(text=text))

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def _ends_in_half_a_line(path: Path) -> bool:
    """What a run that was killed may leave."""
    with path.open("rb") as file:
        size = file.seek(0, SEEK_END)
        file.seek(max(0, size - 1))
        return file.read() not in (b"", b"\n")


class EventTail:
    """Reads the events of a file that is still being written, each once.

    position: bytes read so far, always whole lines
    damaged: lines among them that are no events
    """

    def __init__(self, path: Path, start: int = 0) -> None:
        self._path, self.position, self.damaged = path, start, 0

    def read(self, until: int | None = None) -> Iterator[Event]:
        """The events that are new since the last call, or of these the ones that begin before byte `until`."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(self.position)
            for line in file:
                if not line.endswith(b"\n") or (until is not None and self.position >= until):
                    return
                self.position += len(line)
                try:
                    event = _event_of(line)
                except ValueError:
                    self.damaged += 1
                    continue
                if event is not None:
                    yield event


def parse(line: bytes | str) -> Event | None:
    """One line as an event; None for a kind or a line that this version does not know."""
    try:
        return _event_of(line)
    except ValueError:
        return None


def _event_of(line: bytes | str) -> Event | None:
    """The same; raises ValueError for a line that is no event of any version."""
    try:
        values = json.loads(line)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    name = values.get("kind") if isinstance(values, dict) else None
    if not isinstance(name, str):
        raise ValueError("not an event")
    if name not in KINDS:
        return None
    event: Event = _reader(name).validate_python(values)
    return event


@cache
def _reader(kind: str) -> Any:
    """Makes an event of values, and refuses those of other types."""
    from pydantic import TypeAdapter

    return TypeAdapter(KINDS[kind])
