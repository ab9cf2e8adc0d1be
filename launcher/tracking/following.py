"""One tracker's process: it reads the run's events as the display does, and passes on what is new."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, dataclass
from typing import cast, get_args

import yaml

from launcher.errors import RequestError
from launcher.job.schema import Tracker as Settings
from launcher.run.environment import redacted
from launcher.run.events import EventTail
from launcher.run.flatten import Value, flat
from launcher.run.folder import RunFolder, write_whole
from launcher.run.results import Result
from launcher.tracking import make_tracker
from launcher.tracking.base import Point, Status, TrackedRun
from launcher.tracking.figures import Figures, summary_of

SECONDS_BETWEEN_LOOKS = 1.0


@dataclass(frozen=True)
class State:
    """What a tracker's process leaves for the next one.

    id: the run's name at the tracker's, None before the first
    position: bytes of the events that are delivered
    """

    id: str | None = None
    position: int = 0

    @classmethod
    def read(cls, folder: RunFolder, name: str) -> State:
        """What the last process left."""
        try:
            return cls(**json.loads(folder.tracker_state(name).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, TypeError) as error:
            file = folder.tracker_state(name)
            raise RequestError(
                f"{file} is damaged, so it is unknown which metrics {name} has received; remove the "
                "file, and the next start sends all metrics to a new run there"
            ) from error

    def write(self, folder: RunFolder, name: str) -> None:
        """Keep it, where it is new."""
        if State.read(folder, name) != self:
            write_whole(folder.tracker_state(name), json.dumps(asdict(self)))


class Ending:
    """When the start ends, and how, as far as whoever started the ranks can say: told from another thread."""

    def __init__(self) -> None:
        self.status: Status = "interrupted"
        self._ended = threading.Event()

    def tell(self, word: str) -> None:
        """The start has ended; an empty word comes from nobody."""
        self.status = cast(Status, word) if word in get_args(Status) else "interrupted"
        self._ended.set()

    def wait(self) -> bool:
        """Wait a moment; whether it has ended."""
        return self._ended.wait(SECONDS_BETWEEN_LOOKS)


def follow(folder: RunFolder, settings: Settings, ending: Ending) -> None:
    """Deliver a run's figures until its start has ended. Raises whatever the tracker raises."""
    state = State.read(folder, settings.name)
    figures, tail = Figures(), EventTail(folder.events_file)
    delivered = _points(figures, tail, state.position)
    tracker = make_tracker(settings)
    known = tracker.open(_as_tracked(folder, settings, figures, resumes=bool(delivered)), state.id)
    has_ended = False
    while not has_ended:
        State(known, tail.position).write(folder, settings.name)
        has_ended = ending.wait()  # what comes after it is not missed: the start ends before it says so
        points = _points(figures, tail)
        if points:
            tracker.log(points)
    State(known, tail.position).write(folder, settings.name)
    summary = _summary(folder) if figures.ended_as == "done" else {}
    tracker.conclude(figures.ended_as or ending.status, summary)


def _summary(folder: RunFolder) -> dict[str, Value]:
    """Nothing where the result cannot be read: the figures have been delivered all the same."""
    try:
        return summary_of(Result.read(folder.result_file))
    except RequestError as error:
        print(error, flush=True)
        return {}


def _points(figures: Figures, tail: EventTail, until: int | None = None) -> list[Point]:
    """What new events say that was not said before; those that begin before a byte, where `until` gives one."""
    taken = (figures.take(event) for event in tail.read(until))
    return [point for point in taken if point is not None]


def _as_tracked(folder: RunFolder, settings: Settings, figures: Figures, resumes: bool) -> TrackedRun:
    job = {name: value for name, value in folder.job_values().items() if name != "track"}
    return TrackedRun(
        name=folder.path.name,
        path=folder.path,
        settings=settings,
        parameters=flat(job),
        job=redacted(yaml.safe_dump(job, sort_keys=False, allow_unicode=True)),
        last_step=figures.last_step if resumes else None,
    )
