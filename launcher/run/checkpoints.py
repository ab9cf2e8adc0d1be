"""Which checkpoints of a run are whole. A checkpoint counts only with its marker, which is written last."""

from __future__ import annotations

import json
import re
from pathlib import Path

MARKER, PROGRESS = "complete.json", "progress.json"
_NAME = re.compile(r"step-(\d{8,})")


def checkpoint_name(step: int) -> str:
    """Folder name of the checkpoint after `step` optimizer steps."""
    return f"step-{step:08d}"


def step_of(checkpoint: Path) -> int:
    """Optimizer steps behind a checkpoint folder."""
    found = _NAME.fullmatch(checkpoint.name)
    if found is None:
        raise ValueError(f"{checkpoint} is not named as a checkpoint")
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
    progress = json.loads((checkpoint / PROGRESS).read_text(encoding="utf-8"))
    limit: int | None = progress.get("micro_batch_limit")
    return limit


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob("step-*") if path.is_dir()]


def _is_whole(path: Path) -> bool:
    return _NAME.fullmatch(path.name) is not None and (path / MARKER).is_file()
