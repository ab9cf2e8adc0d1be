"""What a failing rank leaves behind, which failure was first, and the page that tells the user of it."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import asdict, dataclass

from launcher.run.events import EventTail, Step
from launcher.run.folder import RunFolder, write_whole

CONSEQUENCES = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting")
"""What ranks say when another one has died; never the first failure where there is another."""

ADVICE = {
    "OutOfMemory": "lower train.micro_batch_size (it changes no result), set train.activation_checkpointing: true, or "
    "shard the model over more GPUs: `adaptrun plan JOB --gpus N --gpu-memory SIZE` tells what fits",
    "OutOfMemoryError": "lower train.micro_batch_size: it changes memory and no result",
    "MemoryError": "lower train.micro_batch_size or launch.processes: neither changes a result",
    "SIGKILL": "often the system's out-of-memory killer: lower train.micro_batch_size or launch.processes",
    "CheckpointError": "look at the disk's free space and permissions, then run the same command again: it goes on",
    "OSError": "look at the disk's free space and permissions, then run the same command again: it goes on",
}
SILENT_DEATH = "another rank ended without a word; the system's log may say why (out of memory, for one)"


@dataclass(frozen=True)
class Failure:
    """How one rank failed.

    kind: class of the error, or name of the signal
    exit_code: what the rank ended with
    """

    rank: int | None
    host: str
    time: float
    kind: str
    message: str
    traceback: str
    exit_code: int

    @property
    def is_consequence(self) -> bool:
        """Whether the rank only noticed that another one had died."""
        return any(mark in self.message for mark in CONSEQUENCES)

    @classmethod
    def now(cls, rank: int | None, kind: str, message: str, traceback: str, exit_code: int) -> Failure:
        """A failure on this machine at this moment."""
        return cls(rank, socket.gethostname(), time.time(), kind, message, traceback, exit_code)


def leave_word(folder: RunFolder, failure: Failure) -> None:
    """Keep the failure of a rank for whoever started it."""
    assert failure.rank is not None
    write_whole(folder.rank_failure(failure.rank), json.dumps(asdict(failure)))


def told_failures(folder: RunFolder) -> list[Failure]:
    """What the ranks left word of, first failures first and mere consequences last."""
    told = [Failure(**json.loads(file.read_text(encoding="utf-8"))) for file in folder.logs.glob("*.failure.json")]
    return sorted(told, key=lambda failure: (failure.is_consequence, failure.time))


def forget_failures(folder: RunFolder) -> None:
    """Remove what an earlier start left."""
    for left in (folder.failure_file, *folder.logs.glob("*.failure.json")):
        left.unlink(missing_ok=True)


def write_page(folder: RunFolder, first: Failure) -> str:
    """Keep `failure.txt` and return its text."""
    steps = [event.step for event in EventTail(folder.events_file).read() if isinstance(event, Step)]
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(first.time))
    lines = [
        f"rank {first.rank} on {first.host} failed first, at {when}: {first.kind}: {first.message}",
        f"last step: {steps[-1] if steps else 'none'}",
        "",
        first.traceback.rstrip(),
    ]
    advice = SILENT_DEATH if first.is_consequence else ADVICE.get(first.kind)
    if advice:
        lines += ["", f"what to do: {advice}"]
    page = "\n".join(lines) + "\n"
    write_whole(folder.failure_file, page)
    return page


def last_lines(folder: RunFolder, rank: int | None, count: int = 15) -> str:
    """What a rank that could leave no word said last."""
    try:
        lines = folder.log(rank or 0).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return "it left no output"
    return "\n".join(["its last output:", *lines[-count:]])
