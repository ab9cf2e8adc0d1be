"""Checkpoints a run can go on from, under any number of ranks.

A checkpoint is a folder `step-00000400` of `torch.distributed.checkpoint` files, in which every tensor has
the model's own name, and `progress.json`, what the loop remembers. It is written beside as
`step-00000400.partial` by all ranks, renamed when whole, and complete only with its marker.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from launcher.engines.base import StateDict
from launcher.errors import CheckpointError
from launcher.run.checkpoints import MARKER, checkpoint_name, complete_checkpoints, step_of

PROGRESS = "progress.json"
FORMAT = 1


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run.

    keep: how many of the last are kept, beside the best
    """

    folder: Path
    keep: int

    def save(self, step: int, state: StateDict, progress: dict[str, Any], best_step: int | None) -> Path:
        """Write a checkpoint with all ranks, then remove those no longer kept. Raises CheckpointError."""
        final = self.folder / checkpoint_name(step)
        partial = final.with_name(final.name + ".partial")
        try:
            if _is_first():
                for left in (partial, final):
                    shutil.rmtree(left, ignore_errors=True)
                partial.mkdir(parents=True)
            _wait()
            self._check_space(step, state)
            save(_flat(state), checkpoint_id=partial, no_dist=not dist.is_initialized())
            if _is_first():
                _write_synced(partial / PROGRESS, progress)
                partial.rename(final)
                _write_synced(final / MARKER, {"format": FORMAT, "step": step})
                self._remove_old(best_step)
        except (OSError, CheckpointException) as error:
            raise CheckpointError(
                f"{partial} could not be written: {_reason(error)}; earlier checkpoints are intact"
            ) from error
        _wait()
        return final

    def _check_space(self, step: int, state: StateDict) -> None:
        """A disk that fills up fails late, and fails others too. Raises CheckpointError."""
        needed = sum(tensor.numel() * tensor.element_size() for tensor in _flat(state).values())
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise CheckpointError(
                f"the checkpoint of step {step} takes {needed / 2**20:.0f} MiB, and {self.folder} has "
                f"{free / 2**20:.0f} MiB free; make room and run the same command again, earlier checkpoints are intact"
            )

    def _remove_old(self, best_step: int | None) -> None:
        complete = complete_checkpoints(self.folder)
        for checkpoint in complete[: -self.keep]:
            if step_of(checkpoint) != best_step:
                (checkpoint / MARKER).unlink()
                shutil.rmtree(checkpoint)

    def at(self, step: int) -> Path:
        """Where the checkpoint of `step` lies."""
        return self.folder / checkpoint_name(step)


def read_progress(checkpoint: Path) -> dict[str, Any]:
    """What the loop remembered. Raises CheckpointError."""
    try:
        progress: dict[str, Any] = json.loads((checkpoint / PROGRESS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{checkpoint} cannot be read: {error}; resume from another one") from error
    return progress


def read_state(checkpoint: Path, like: StateDict, *, optimizer: bool = True) -> StateDict:
    """Read the training state into new tensors shaped (and sharded) as `like` has them.

    like: `Engine.state()` of the model as prepared; its optimizer may still be empty
    optimizer: False reads the model alone
    Raises CheckpointError.
    """
    reader = FileSystemReader(checkpoint)
    try:
        saved = reader.read_metadata().state_dict_metadata
        state: StateDict = {
            "model": {name: torch.empty_like(tensor) for name, tensor in like["model"].items()},
            "optimizer": {},
        }
        for key, found in saved.items() if optimizer else ():
            kind, _, rest = key.partition("/")
            if kind == "optimizer":
                slot, _, name = rest.partition("/")
                state["optimizer"].setdefault(name, {})[slot] = _room(found, like["model"][name])
        load(_flat(state), storage_reader=reader, no_dist=not dist.is_initialized())
    except (OSError, RuntimeError, KeyError, CheckpointException) as error:
        raise CheckpointError(f"{checkpoint} cannot be read: {_reason(error)}; resume from another one") from error
    return state


def _reason(error: BaseException) -> str:
    """What went wrong on the first rank that failed, without the tracebacks that torch puts into its message."""
    if isinstance(error, CheckpointException):
        rank, (cause, _) = next(iter(error.failures.items()))
        return f"rank {rank}: {type(cause).__name__}: {cause}"
    return str(error)


def _room(found: Any, parameter: Tensor) -> Tensor:
    """A moment has its parameter's shape and sharding; a counter is a plain tensor."""
    if found.size == parameter.shape and parameter.ndim > 0:
        return torch.empty_like(parameter, dtype=found.properties.dtype)
    return torch.empty(found.size, dtype=found.properties.dtype)


def _flat(state: StateDict) -> dict[str, Tensor]:
    flat = {f"model/{name}": tensor for name, tensor in state["model"].items()}
    for name, moments in state["optimizer"].items():
        flat |= {f"optimizer/{slot}/{name}": tensor for slot, tensor in moments.items()}
    return flat


def _write_synced(path: Path, values: dict[str, Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(values, file)
        file.flush()
        os.fsync(file.fileno())


def _is_first() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def _wait() -> None:
    if dist.is_initialized():
        dist.barrier()
