"""What failing ranks and their nodes leave behind, which failure was first, and the page that tells the user of it."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from launcher.errors import ExitCode
from launcher.run.attempts import Attempt
from launcher.run.events import EventTail, Step
from launcher.run.failure_kinds import FailureKind, advice, is_consequence, kind_of
from launcher.run.folder import RunFolder, read_json, write_whole
from launcher.run.scratch import make_scratch, scratch

Left = TypeVar("Left")


@dataclass(frozen=True)
class Failure:
    """How one rank failed, or, where `rank` is None, the launcher of one machine.

    error: class of the error, or name of the signal
    exit_code: what the rank ended with
    step: the optimizer step that was being made, None where that is not known
    doing: its phase and the collective it was in, as in its last beat
    follows: it only followed from what happened to another rank
    """

    rank: int | None
    host: str
    time: float
    error: str
    message: str
    traceback: str
    exit_code: int
    step: int | None = None
    doing: str = ""
    follows: bool = False

    @property
    def is_consequence(self) -> bool:
        """Whether the rank only noticed that another one had failed."""
        return self.follows or is_consequence(self.message)

    @property
    def kind(self) -> FailureKind:
        """What sort of failure it is."""
        return kind_of(self.error, self.message)

    @property
    def who(self) -> str:
        """Who failed, for the user."""
        return f"{'the launcher' if self.rank is None else f'rank {self.rank}'} on {self.host}"

    @classmethod
    def now(cls, rank: int | None, error: str, message: str, traceback: str, exit_code: int) -> Failure:
        """A failure on this machine at this moment."""
        return cls(rank, socket.gethostname(), time.time(), error, message, traceback, exit_code)


@dataclass(frozen=True)
class Ended:
    """How a rank ended, by the one who started it.

    code: exit code, negative for a signal; None where it had to be ended
    doing: its last beat
    """

    rank: int
    host: str
    code: int | None
    doing: str
    step: int

    def __str__(self) -> str:
        how = "was ended" if self.code is None else f"ended with {name_of(self.code)}"
        return f"rank {self.rank} on {self.host}: {self.doing or 'before its first heartbeat'}; {how}"


def name_of(code: int) -> str:
    """An exit code in words."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def report_failure(folder: RunFolder, failure: Failure, start: int) -> None:
    """Keep a failure for whoever decides what comes next."""
    who = failure.host if failure.rank is None else f"rank-{failure.rank}"
    _keep(folder, f"start-{start}.{who}.failure.json", json.dumps(asdict(failure)))


def leave_ends(folder: RunFolder, ends: Sequence[Ended], start: int) -> None:
    """Keep how the ranks of this machine ended, for whoever tells the user of it."""
    _keep(folder, f"start-{start}.{socket.gethostname()}.ends.json", json.dumps([asdict(end) for end in ends]))


def recorded_failures(folder: RunFolder) -> list[Failure]:
    """What the ranks of the latest start and their launchers left word of, the earliest first."""
    files = _kept(folder, f"start-{_latest(folder)}.*.failure.json")
    recorded = [failure for file in files for failure in _all_of(Failure, [read_json(file)])]
    return sorted(recorded, key=lambda failure: failure.time)


def recorded_ends(folder: RunFolder) -> list[Ended]:
    """How the ranks of the latest start ended, on all machines."""
    files = ends_of_nodes(folder, _latest(folder))
    found = [end for file in files for end in _all_of(Ended, _listed(file))]
    return sorted(found, key=lambda end: end.rank)


def _all_of(kind: type[Left], values: Sequence[Any]) -> Iterator[Left]:
    """What files hold, as far as it can be read: of a damaged one another may still tell."""
    from pydantic import TypeAdapter

    reader = TypeAdapter(kind)
    for each in values:
        with suppress(ValueError):
            yield reader.validate_python(each)


def _listed(file: Path) -> Sequence[Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return values if isinstance(values, list) else []


def ends_of_nodes(folder: RunFolder, start: int) -> list[Path]:
    """What each machine whose ranks ended badly has left, a file each."""
    return _kept(folder, f"start-{start}.*.ends.json")


def forget_failures(folder: RunFolder) -> None:
    """Remove what an earlier start left."""
    for pattern in ("*.failure.json", "*.ends.json"):
        for left in _kept(folder, pattern):
            left.unlink(missing_ok=True)
    with suppress(OSError):  # it was never made, as a rule
        scratch(folder, "words").rmdir()
    folder.failure_file.unlink(missing_ok=True)


def first_failure(folder: RunFolder) -> Failure | None:
    """The earliest failure that is no consequence; else a rank that was killed; else what the ranks noticed of it.

    A rank that only stopped was asked to, perhaps because another one had died: what was noticed earlier tells.
    None where no rank ended badly.
    """
    recorded, ends = recorded_failures(folder), recorded_ends(folder)
    causes = [failure for failure in recorded if not failure.is_consequence and failure.exit_code != ExitCode.STOPPED]
    reporting = {failure.rank for failure in recorded}
    silent = [end for end in ends if end.rank not in reporting and end.code not in (0, None)]
    killed = [end for end in silent if end.code is not None and end.code < 0]
    if causes or (recorded and not killed):
        return [*causes, *recorded][0]
    end = next(iter([*killed, *silent]), None)
    if end is None or end.code is None:
        return None
    how = name_of(end.code)
    error = how if end.code < 0 else "silent death"
    said = last_lines(folder, end.rank)
    return Failure(
        end.rank, end.host, time.time(), error, f"ended with {how}", said, int(ExitCode.FAILED), end.step, end.doing
    )


def write_page(folder: RunFolder, first: Failure) -> str:
    """Keep `failure.txt`, where the disk has room for it, and return its text; of a wrong request what is wrong."""
    page = f"{first.message}\n" if first.exit_code == ExitCode.WRONG_REQUEST else _page(folder, first)
    with suppress(OSError):
        write_whole(folder.failure_file, page)
    return page


def _page(folder: RunFolder, first: Failure) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(first.time))
    others = [end for end in recorded_ends(folder) if end.rank != first.rank]
    lines = [
        f"{first.who} failed first, at {when}: {first.error}: {first.message}",
        f"kind: {first.kind.value}",
        f"last step: {_last_step(folder)}" + (f"; it was in: {first.doing}" if first.doing else ""),
        "",
        first.traceback.rstrip(),
    ]
    if others:
        lines += ["", "the other ranks:", *(f"  {end}" for end in others)]
    what_to_do = advice(first.error, first.message)
    if what_to_do:
        lines += ["", f"what to do: {what_to_do}"]
    return "\n".join(lines) + "\n"


def _keep(folder: RunFolder, name: str, text: str) -> None:
    """In the run's logs, or, where their disk is full, on this machine; where that is full too, nobody will know."""
    try:
        write_whole(folder.logs / name, text)
    except OSError:
        with suppress(OSError):
            write_whole(make_scratch(folder, "words") / name, text)


def _kept(folder: RunFolder, pattern: str) -> list[Path]:
    places = [folder.logs]
    with suppress(OSError):
        places.append(scratch(folder, "words"))
    return [file for place in places for file in place.glob(pattern)]


def _latest(folder: RunFolder) -> int:
    start = Attempt.read(folder)
    return 0 if start is None else start.count


def _last_step(folder: RunFolder) -> str:
    steps = [event.step for event in EventTail(folder.events_file).read() if isinstance(event, Step)]
    return str(steps[-1]) if steps else "none"


def last_lines(folder: RunFolder, rank: int | None, count: int = 15) -> str:
    """What a rank that could leave no word said last."""
    try:
        lines = folder.log(rank or 0).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return "it printed nothing"
    return "\n".join(["its last output:", *lines[-count:]])
