"""Reading a checkpoint back, under any engine and any number of ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from launcher.checkpoint.metadata import MetadataReader
from launcher.checkpoint.planners import LoadPlanner
from launcher.engines.base import LocalTensor, StateDict
from launcher.engines.flat_slice import FlatSlice
from launcher.errors import CheckpointError
from launcher.run.checkpoints import PROGRESS


def read_progress(checkpoint: Path) -> dict[str, Any]:
    """The progress that the training loop saved. Raises CheckpointError."""
    try:
        progress: dict[str, Any] = json.loads((checkpoint / PROGRESS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{checkpoint} cannot be read: {error}; resume from another one") from error
    return progress


def read_state(checkpoint: Path, like: StateDict, *, optimizer: bool = True) -> StateDict:
    """Read the training state into new tensors with the shapes and the sharding of `like`.

    like: `Engine.state()` of the model as prepared; its optimizer may still be empty
    optimizer: False reads the model alone
    The state of the loss scaler is read if both `like` and the checkpoint have one.
    Raises CheckpointError.
    """
    reader = MetadataReader(checkpoint)
    try:
        saved = reader.read_metadata().state_dict_metadata
        state: StateDict = {
            "model": {name: _same_room(name, saved[f"model/{name}"], held) for name, held in like["model"].items()},
            "learning": {},
            "optimizer": {},
            "scaler": {},
        }
        for key, found in saved.items() if optimizer else ():
            kind, _, rest = key.partition("/")
            slot, _, name = rest.partition("/")
            if kind == "optimizer" and name in like["learning"]:
                state["optimizer"].setdefault(name, {})[slot] = _room(found, like["learning"][name])
            elif kind == "scaler" and slot in like["scaler"]:
                state["scaler"][slot] = _room(found, like["scaler"][slot])
        load(flat(state), storage_reader=reader, planner=LoadPlanner(), no_dist=not dist.is_initialized())
    except (OSError, RuntimeError, KeyError, ValueError, CheckpointException) as error:
        raise CheckpointError(f"{checkpoint} cannot be read: {reason(error)}; resume from another one") from error
    return state


def reason(error: BaseException) -> str:
    """What went wrong on the first rank that failed, without the tracebacks that torch puts into its message."""
    if isinstance(error, CheckpointException):
        rank, (cause, _) = next(iter(error.failures.items()))
        return f"rank {rank}: {type(cause).__name__}: {cause}"
    return str(error)


def flat(state: StateDict) -> dict[str, LocalTensor]:
    """The state under the names used in checkpoints: `model/NAME`, `optimizer/SLOT/NAME` and `scaler/SLOT`."""
    named: dict[str, LocalTensor] = {f"model/{name}": held for name, held in state["model"].items()}
    for name, moments in state["optimizer"].items():
        named |= {f"optimizer/{slot}/{name}": held for slot, held in moments.items()}
    return named | {f"scaler/{slot}": held for slot, held in state["scaler"].items()}


def _same_room(name: str, found: Any, like: LocalTensor) -> LocalTensor:
    if not isinstance(found, TensorStorageMetadata):
        raise ValueError(f"{name} is not a tensor in the checkpoint")
    if found.size != like.size():
        raise ValueError(f"{name} has shape {list(found.size)} in the checkpoint and {list(like.size())} in the model")
    return _room(found, like)


def _room(found: Any, like: LocalTensor) -> LocalTensor:
    """A moment has its parameter's shape and sharding; a counter is a plain tensor."""
    if not isinstance(found, TensorStorageMetadata):
        raise ValueError("a value in it is not a tensor")
    if found.size != like.size() or not found.size:
        return torch.empty(found.size, dtype=found.properties.dtype)
    if isinstance(like, FlatSlice):
        return like.like(found.properties.dtype)
    return torch.empty_like(like, dtype=found.properties.dtype)
