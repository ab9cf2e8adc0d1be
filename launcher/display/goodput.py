"""Where the time of a run went: goodput, the share that went into steps which count."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from launcher.run.events import Began, Event, Phase, Step

KINDS = {
    "preparing": "preparation",
    "loading": "loading",
    "training": "training",
    "evaluating": "evaluating",
    "extracting features": "evaluating",
    "comparing": "evaluating",
    "saving": "saving",
    "publishing": "saving",
}
ENDS = ("done", "stopped")


@dataclass(frozen=True)
class Goodput:
    """Seconds of wall time by what they were spent on.

    seconds: preparation, loading, training, evaluating, saving, restarting (from a failure to the next start's first
    phase), repeated (steps that a later start had to make again) and idle (no ranks, and nobody was starting them)
    """

    seconds: dict[str, float]

    @property
    def goodput(self) -> float | None:
        """Training's share of all that was not idle, None before anything happened."""
        busy = sum(seconds for kind, seconds in self.seconds.items() if kind != "idle")
        return self.seconds["training"] / busy if busy > 0 else None

    def __str__(self) -> str:
        if self.goodput is None:
            return "no work has been recorded yet"
        spent = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in self.seconds.items() if seconds >= 0.5)
        return f"goodput {self.goodput:.0%}, the share of the time that went into kept steps: {spent}"

    @classmethod
    def of(cls, events: Iterable[Event]) -> Goodput:
        """Add up a run's events; the last phase lasts until its last event."""
        names = ("preparation", "loading", "training", "evaluating", "saving", "restarting", "repeated", "idle")
        seconds = dict.fromkeys(names, 0.0)
        kind, since, last = "idle", None, None
        taken: dict[int, float] = {}
        for event in events:
            if since is None:
                since = event.time
            if isinstance(event, Step):
                seconds["repeated"] += taken.get(event.step, 0.0)
                seconds["training"] -= taken.get(event.step, 0.0)
                taken[event.step] = event.seconds
            if isinstance(event, Began) and kind != "idle" and last is not None:  # the start before it died
                seconds[kind] += last - since
                since, kind = last, "restarting" if event.cause == "restart" else "idle"
            if isinstance(event, Phase | Began):
                seconds[kind] += event.time - since
                since = event.time
                kind = _kind(event)
            last = event.time
        if since is not None and last is not None and kind != "idle":
            seconds[kind] += last - since
        return cls(seconds)


def _kind(event: Phase | Began) -> str:
    if isinstance(event, Began):
        return "restarting" if event.cause in ("restart", "requeued") else "loading"
    return "idle" if event.name in ENDS else KINDS.get(event.name, "loading")
