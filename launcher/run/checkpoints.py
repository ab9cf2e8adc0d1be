"""Which checkpoints of a run are whole. A checkpoint counts only with its marker, which is written last.

The hash of each file is written before the marker. Files are looked at when a checkpoint is about to be read: the small
ones by whoever decides on it, all of them by the ranks.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path

from launcher.files import HASHES, Damaged, FileHash, faults_of, read_hashes, remove

MARKER, PROGRESS, METADATA = "complete.json", "progress.json", ".metadata"
FORMAT = 2
"""Written into the marker; from 2 on there are hashes."""
_NAME = re.compile(r"step-(\d{8,})")


def checkpoint_name(step: int) -> str:
    """Folder name of the checkpoint after `step` optimizer steps."""
    return f"step-{step:08d}"


def step_of(checkpoint: Path) -> int:
    """Optimizer steps behind a checkpoint folder."""
    found = _NAME.fullmatch(checkpoint.name)
    if found is None:
        raise ValueError(f"{checkpoint} does not have a checkpoint's name")
    return int(found.group(1))


def complete_checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints in `folder`, oldest step first."""
    return sorted((path for path in _checkpoints(folder) if _is_whole(path)), key=step_of)


def incomplete_checkpoints(folder: Path) -> list[Path]:
    """What a killed save left behind: of no use, and removed by the next save of the same step."""
    return sorted(path for path in _checkpoints(folder) if not _is_whole(path))


def last_checkpoint(folder: Path) -> Path | None:
    """The whole checkpoint of the latest step, None where there is none."""
    return next(reversed(complete_checkpoints(folder)), None)


def micro_batch_limit(checkpoint: Path) -> int | None:
    """What running out of memory had left of micro-batches when the checkpoint was saved; None for no limit."""
    try:
        limit = json.loads((checkpoint / PROGRESS).read_text(encoding="utf-8")).get("micro_batch_limit")
    except (OSError, ValueError, AttributeError):  # the ranks look at the whole checkpoint, and say so
        return None
    return limit if isinstance(limit, int) else None


def hashes_of(checkpoint: Path) -> dict[str, FileHash] | None:
    """The hashes of a checkpoint's files; None where an earlier version saved it, without any. Raises Damaged."""
    try:
        return read_hashes(checkpoint)
    except FileNotFoundError:
        if _format_of(checkpoint) >= FORMAT:
            raise Damaged("hashes.json is missing") from None
        return None


def note_without_hashes(checkpoint: Path) -> str:
    """What to tell of a checkpoint of ours that carries no hashes; empty for others."""
    if not (checkpoint / MARKER).is_file() or (checkpoint / HASHES).is_file():
        return ""
    return f"{checkpoint.name} was saved without hashes by an earlier version, so damage to it cannot be detected"


def quick_fault(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, by the sizes of its files and what the small ones hold; None for nothing."""
    try:
        hashes = hashes_of(checkpoint)
    except Damaged as damaged:
        return str(damaged)
    return None if hashes is None else next(faults_of(checkpoint, hashes, quickly=True), None)


def set_aside(checkpoint: Path) -> None:
    """Let a damaged checkpoint no longer count; the next save that is complete removes it."""
    aside = checkpoint.with_name(f"{checkpoint.name}.damaged")
    remove(aside)
    with suppress(FileNotFoundError):  # somebody has removed it
        checkpoint.rename(aside)


def _format_of(checkpoint: Path) -> int:
    try:
        return int(json.loads((checkpoint / MARKER).read_text(encoding="utf-8"))["format"])
    except (OSError, ValueError, KeyError, TypeError):
        return 1


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob("step-*") if path.is_dir()]


def _is_whole(path: Path) -> bool:
    return _NAME.fullmatch(path.name) is not None and (path / MARKER).is_file()
