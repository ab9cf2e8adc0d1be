"""The starts of a run. Each is counted, so that ranks of an earlier one, on a node that was lost, cannot write."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal, get_args

from launcher.errors import Superseded
from launcher.run.checkpoints import checkpoint_name, last_checkpoint, step_of
from launcher.run.events import Began, EventLog, EventTail
from launcher.run.folder import RunFolder, write_whole

Cause = Literal["first", "resumed", "requeued", "restart"]
"""Why the ranks start: a new run; a person took it up again, or the scheduler; a failure that may pass."""

_CAUSES: dict[str, Cause] = {cause: cause for cause in get_args(Cause)}
SECONDS_BETWEEN_LOOKS = 2.0


@dataclass(frozen=True)
class Attempt:
    """One start of the ranks of a run.

    count: 1 for the first
    checkpoint: what it resumes from, None from the beginning
    without_progress: how many attempts before this one, in a row, saved no step
    token: what the nodes of a cluster know this start by; empty until the first of them has taken it up
    endpoint: host:port where the nodes meet; empty while the first of them prepares the data
    ends: when the scheduler takes the machines away, in seconds since the epoch; None where it does not
    insists: the user named the very checkpoint, so that no other takes its place where it is damaged
    """

    count: int = 1
    cause: Cause = "first"
    checkpoint: str | None = None
    without_progress: int = 0
    token: str = ""
    endpoint: str = ""
    ends: float | None = None
    insists: bool = False

    @property
    def from_step(self) -> int:
        """Steps before the checkpoint that it resumes from."""
        return 0 if self.checkpoint is None else step_of(Path(self.checkpoint))

    @classmethod
    def read(cls, folder: RunFolder) -> Attempt | None:
        """The latest start, None before the first; where its file is damaged, what the run's events tell of it."""
        try:
            values = json.loads(folder.start_file.read_text(encoding="utf-8"))
            known = {each.name for each in fields(cls)}
            return cls(**{name: value for name, value in values.items() if name in known})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, AttributeError):
            return cls._from_events(folder)

    @classmethod
    def _from_events(cls, folder: RunFolder) -> Attempt:
        """Counts of starts only grow, so that ranks of earlier ones stay without the right to write."""
        begun = [event for event in EventTail(folder.events_file).read() if isinstance(event, Began)]
        if not begun:
            return cls()
        last = max(begun, key=lambda event: event.start)
        checkpoint = str(folder.checkpoints / checkpoint_name(last.step)) if last.step else None
        return cls(last.start, _CAUSES.get(last.cause, "first"), checkpoint)


def begin_attempt(
    folder: RunFolder,
    cause: Cause,
    checkpoint: Path | None,
    *,
    token: str = "",
    ends: float | None = None,
    insists: bool = False,
) -> Attempt:
    """Count a new start, which ends the right of every earlier one to write."""
    before = Attempt.read(folder)
    start = Attempt(1, cause, None if checkpoint is None else str(checkpoint), 0, token, ends=ends, insists=insists)
    if before is not None:
        gained = start.from_step > before.from_step or cause == "resumed"
        start = replace(start, count=before.count + 1, without_progress=0 if gained else before.without_progress + 1)
    if cause in ("first", "resumed"):  # where nobody asked for the start, a request to stop still stands
        folder.stop_file.unlink(missing_ok=True)
    write_whole(folder.start_file, json.dumps(asdict(start)))
    log = EventLog(folder.events_file)
    log.write(Began(start=start.count, cause=cause, step=start.from_step))
    log.close()
    return start


def adopt(folder: RunFolder, start: Attempt, *, token: str, endpoint: str, ends: float | None) -> Attempt:
    """Take up a start that was counted before the nodes were known."""
    start = replace(start, token=token, endpoint=endpoint, ends=ends)
    write_whole(folder.start_file, json.dumps(asdict(start)))
    return start


def fall_back(folder: RunFolder, start: Attempt, checkpoint: Path) -> Attempt:
    """Let a start resume from an earlier checkpoint, since the one that it was to resume from is damaged."""
    start = replace(start, checkpoint=str(checkpoint))
    write_whole(folder.start_file, json.dumps(asdict(start)))
    return start


def begin_next_attempt(folder: RunFolder, cause: Cause) -> Attempt:
    """A new start from the last complete checkpoint."""
    return begin_attempt(folder, cause, last_checkpoint(folder.checkpoints))


def attempts_without_progress(folder: RunFolder, latest: Attempt) -> int:
    """How many starts in a row, the latest included, have saved no step."""
    last = last_checkpoint(folder.checkpoints)
    gained = last is not None and step_of(last) > latest.from_step
    return 0 if gained else latest.without_progress + 1


class Fence:
    """Whether this start may still write to the run's folder."""

    def __init__(self, folder: RunFolder, count: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._count, self._clock = folder, count, clock
        self._looked = float("-inf")

    def check(self) -> None:
        """Raise Superseded where a later start has begun."""
        self._looked = self._clock()
        latest = Attempt.read(self._folder)
        if latest is not None and latest.count != self._count:
            raise Superseded(
                f"attempt {latest.count} of {self._folder.path} has begun, so attempt {self._count}, "
                "which is this one, writes nothing more"
            )

    def check_now_and_then(self) -> None:
        """The same, without asking the file system at each step."""
        if self._clock() - self._looked >= SECONDS_BETWEEN_LOOKS:
            self.check()
