"""Which rank failed first, and what to tell the user of it."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from launcher.errors import ExitCode, RequestError, RunFailed, Stopped
from launcher.run.events import EventTail, Step
from launcher.run.folder import RunFolder, write_whole

CONSEQUENCES = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting")
"""What ranks say when another one has died; never the first failure where there is another."""

ADVICE = {
    "OutOfMemoryError": "lower train.micro_batch_size: it changes memory and no result",
    "MemoryError": "lower train.micro_batch_size or launch.processes: neither changes a result",
    "SIGKILL": "often the system's out-of-memory killer: lower train.micro_batch_size or launch.processes",
    "CheckpointError": "look at the disk's free space and permissions, then run the same command again: it goes on",
    "OSError": "look at the disk's free space and permissions, then run the same command again: it goes on",
}


@dataclass(frozen=True)
class Death:
    """A rank that ended badly, as the one who started it saw it.

    rank: None where it was the starter that was told to stop
    code: exit code, negative for a signal
    """

    rank: int | None
    code: int
    time: float = field(default_factory=time.time)


def report_failure(folder: RunFolder, deaths: Sequence[Death]) -> NoReturn:
    """Raise what the first failure means, and keep it in `failure.txt` where it is one of the program."""
    words = [json.loads(file.read_text(encoding="utf-8")) for file in folder.logs.glob("*.failure.json")]
    first = _first(words, deaths)
    if first is None:
        death = deaths[0]
        first = {
            "rank": death.rank,
            "host": _host(),
            "time": death.time,
            "class": _signal_name(death.code),
            "message": f"ended with {_signal_name(death.code)}",
            "traceback": _last_lines(folder, death.rank),
            "exit_code": int(ExitCode.FAILED),
        }
    if first["exit_code"] == ExitCode.WRONG_REQUEST:
        raise RequestError(first["message"])
    if first["exit_code"] == ExitCode.STOPPED:
        raise Stopped(first["message"])
    page = _page(folder, first)
    write_whole(folder.failure_file, page)
    raise RunFailed(f"{page}\nkept in {folder.failure_file}")


def _first(words: list[dict[str, Any]], deaths: Sequence[Death]) -> dict[str, Any] | None:
    """The earliest word that is no consequence; None where a rank died without one before it."""
    spoken = {word["rank"] for word in words}
    silent = [death for death in deaths if death.rank is not None and death.rank not in spoken]
    causes = [word for word in words if not any(mark in word["message"] for mark in CONSEQUENCES)]
    if causes:
        return min(causes, key=lambda word: float(word["time"]))
    if any(death.code < 0 for death in silent) or not words:
        return None
    return min(words, key=lambda word: float(word["time"]))


def _page(folder: RunFolder, first: dict[str, Any]) -> str:
    steps = [event.step for event in EventTail(folder.events_file).read() if isinstance(event, Step)]
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(first["time"]))
    lines = [
        f"rank {first['rank']} on {first['host']} failed first, at {when}: {first['class']}: {first['message']}",
        f"last step: {steps[-1] if steps else 'none'}",
        "",
        first["traceback"].rstrip(),
    ]
    if first["class"] in ADVICE:
        lines += ["", f"what to do: {ADVICE[first['class']]}"]
    return "\n".join(lines) + "\n"


def _last_lines(folder: RunFolder, rank: int | None) -> str:
    """What a rank that could leave no word said last."""
    try:
        lines = folder.log(rank or 0).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return "it left no output"
    return "\n".join(["its last output:", *lines[-15:]])


def _signal_name(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _host() -> str:
    import socket

    return socket.gethostname()
