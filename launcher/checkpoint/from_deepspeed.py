"""Read weights from a folder of DeepSpeed's `save_checkpoint`, ZeRO stage 1, 2 or 3.

Stages 1 and 2 concatenate the parameters of a group and split the result into one shard per rank. Stage 3 splits each
parameter into one shard per rank and concatenates the shards of a rank. Files are memory-mapped, so the system can
evict their pages at any time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from launcher.checkpoint.pickles import Record, refused
from launcher.checkpoint.weights import StoredWeight
from launcher.errors import RequestError

ALLOWED: dict[str, type] = {
    "deepspeed.runtime.zero.config.ZeroStageEnum": int,
    "deepspeed.runtime.fp16.loss_scaler.LossScaler": Record,
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler": Record,
    "deepspeed.utils.tensor_fragment.fragment_address": Record,
}
"""Stand-ins for the classes that DeepSpeed's ZeRO pickles in addition to tensors and plain values; none is imported."""


@dataclass(frozen=True)
class Run:
    """Elements `start` to `start + count` of a flat tensor."""

    flat: Tensor
    start: int
    count: int


def deepspeed_weights(folder: Path) -> list[StoredWeight]:
    """Parameters in fp32, and buffers; tied parameters once.

    folder: the one given to `save_checkpoint`, or the `global_stepN` in it
    Raises RequestError if files are missing or not DeepSpeed's, CheckpointError for a file that could run code.
    """
    folder = _step_folder(folder)
    optimizer_files = _by_rank(folder, "*_optim_states.pt")
    states = [_read(file)["optimizer_state_dict"] for file in optimizer_files]
    stage = int(states[0].get("zero_stage", 0))
    counts = states[0].get("partition_count")
    ranks = max(counts) if isinstance(counts, list) else counts
    if stage not in (1, 2, 3) or ranks != len(optimizer_files):
        raise RequestError(
            f"{folder}: found {len(optimizer_files)} files of optimizer states and ZeRO stage {stage} "
            f"wrote {ranks}; copy the folder again from all nodes"
        )
    models = [_read(file) for file in _by_rank(folder, "*_model_states.pt")]
    model = models[0]
    weights = [_whole(name, model["module"][name]) for name in model["buffer_names"]]
    if stage == 3:
        weights += _frozen_in_stage_3(models)
        weights += _stage_3([state["fp32_flat_groups"] for state in states], model["param_shapes"])
    else:
        weights += [_whole(name, tensor) for name, tensor in (model.get("frozen_param_fragments") or {}).items()]
        flats = [state["single_partition_of_fp32_groups"] for state in states]
        weights += _stages_1_and_2(flats, model["param_shapes"], states[0].get("param_alignment_paddings"))
    tied = set(model.get("shared_params") or ())
    return [weight for weight in weights if weight.name not in tied]


def is_deepspeed(folder: Path) -> bool:
    """Whether a folder looks like a DeepSpeed checkpoint."""
    return (folder / "latest").is_file() or any(folder.glob("*_optim_states.pt"))


def _step_folder(folder: Path) -> Path:
    latest = folder / "latest"
    if not latest.is_file():
        return folder
    name = latest.read_text(encoding="utf-8").strip()
    if name in ("", "..") or Path(name).name != name:
        raise RequestError(f"{latest} names {name!r}, and {folder} has no such folder; name one of its folders")
    return folder / name


def _by_rank(folder: Path, pattern: str) -> list[Path]:
    files = sorted(folder.glob(pattern), key=lambda file: [int(number) for number in re.findall(r"\d+", file.name)])
    if not files:
        raise RequestError(f"{folder} holds no {pattern}; name the folder that DeepSpeed's save_checkpoint wrote")
    return files


def _read(file: Path) -> dict[str, Any]:
    """A file's contents, with tensors memory-mapped and DeepSpeed's objects as records. Raises CheckpointError."""
    with safe_globals([(stand_in, name) for name, stand_in in ALLOWED.items()]):
        for name in get_unsafe_globals_in_checkpoint(file):
            raise refused(file, name)
        read: dict[str, Any] = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    return read


def _whole(name: str, tensor: Tensor) -> StoredWeight:
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return StoredWeight(name, tuple(tensor.shape), dtype, lambda: iter([tensor]))


def _of_runs(name: str, shape: Any, runs: list[Run]) -> StoredWeight:
    def pieces() -> Iterator[Tensor]:
        left = prod(shape)  # the last shard may be padded
        for run in runs:
            yield run.flat.narrow(0, run.start, min(run.count, left))
            left -= min(run.count, left)

    return StoredWeight(name, tuple(shape), torch.float32, pieces)


def _stages_1_and_2(
    flats: list[list[Tensor]], shapes: list[dict[str, Any]], paddings: list[list[int]] | None
) -> Iterator[StoredWeight]:
    """flats[rank][group], shapes[group][name]"""
    for group, names in enumerate(shapes):
        parts = [flat[group] for flat in flats]
        begin = 0
        for number, (name, shape) in enumerate(names.items()):
            count = prod(shape)
            yield _of_runs(name, shape, _across(parts, begin, count))
            begin += count + (paddings[group][number] if paddings else 0)


def _stage_3(flats: list[list[Tensor]], shapes: list[dict[str, Any]]) -> Iterator[StoredWeight]:
    """flats[rank][subgroup]; the shards of a parameter have the same offset on every rank."""
    begin = 0
    for names in shapes:
        for name, shape in names.items():
            part = -(-prod(shape) // len(flats))
            yield _of_runs(name, shape, [run for flat in flats for run in _across(flat, begin, part)])
            begin += part


def _frozen_in_stage_3(models: list[dict[str, Any]]) -> Iterator[StoredWeight]:
    for name, shape in (models[0].get("frozen_param_shapes") or {}).items():
        parts = [model["frozen_param_fragments"][name].flatten() for model in models]
        yield _of_runs(name, shape, [Run(part, 0, part.numel()) for part in parts])


def _across(flats: list[Tensor], begin: int, count: int) -> list[Run]:
    """Elements `begin` to `begin + count` of the concatenation of flat tensors."""
    runs, offset = [], 0
    for flat in flats:
        first, last = max(begin, offset), min(begin + count, offset + flat.numel())
        if first < last:
            runs.append(Run(flat, first - offset, last - first))
        offset += flat.numel()
    return runs
