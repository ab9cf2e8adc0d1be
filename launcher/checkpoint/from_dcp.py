"""Read weights from a `torch.distributed.checkpoint` folder, written by adaptrun or by another program."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from launcher.checkpoint.metadata import MetadataReader
from launcher.checkpoint.planners import LoadPlanner
from launcher.checkpoint.reading import reason
from launcher.checkpoint.weights import StoredWeight
from launcher.engines.flat_slice import boxes
from launcher.errors import RequestError

OURS = "model/model."
"""Prefix of the model's own names in adaptrun's checkpoints."""
AVERAGE = "optimizer/average/model."
"""Prefix of the averaged weights, if the run keeps an average: the average is then the result."""


class _Reader(MetadataReader):
    """Reads the shards of a tensor one at a time."""

    def shards(self, name: str, found: TensorStorageMetadata) -> list[Any] | None:
        """Locations of a tensor's shards, in order; None unless each is a contiguous range in torch's own format."""
        places: list[Any] = []
        begin = 0
        for chunk in sorted(found.chunks, key=lambda chunk: tuple(chunk.offsets)):
            end = begin + prod(chunk.sizes)
            if end > begin:
                places.append(self.read_metadata().storage_data[MetadataIndex(name, chunk.offsets)])
                run = [(tuple(chunk.offsets), tuple(chunk.sizes))]
                if places[-1].transform_descriptors or list(boxes(tuple(found.size), begin, end)) != run:
                    return None
            begin = end
        return places if begin == prod(found.size) else None

    def shard(self, place: Any) -> Tensor:
        """Read one shard, which is in memory once; `load` would hold it twice."""
        with (self.folder / place.relative_path).open("rb") as file:
            tensor: Tensor = torch.load(self._slice_file(file, place), map_location="cpu", weights_only=True)
        return tensor


def dcp_weights(folder: Path, prefix: str | None) -> list[StoredWeight]:
    """The weights whose names begin with `prefix`, with the prefix removed; None finds the usual prefix.

    Raises CheckpointError, or OSError, if the metadata cannot be read.
    """
    reader = _Reader(folder)
    saved = reader.read_metadata().state_dict_metadata
    tensors = {name: found for name, found in saved.items() if isinstance(found, TensorStorageMetadata)}
    if prefix is None:
        prefix = _usual_prefix(list(tensors))
    averaged = {f"{OURS}{name.removeprefix(AVERAGE)}": name for name in tensors if name.startswith(AVERAGE)}
    return [
        StoredWeight(
            name.removeprefix(prefix),
            tuple(found.size),
            found.properties.dtype,
            _Pieces(reader, averaged.get(name, name)),
        )
        for name, found in tensors.items()
        if name.startswith(prefix)
    ]


def _usual_prefix(names: list[str]) -> str:
    """adaptrun's prefix; `model.`, as most programs write it alongside an optimizer; none if there are only weights."""
    if any(name.startswith(OURS) for name in names):
        return OURS
    return "model." if any(name.startswith("optim") for name in names) else ""


class _Pieces:
    """Reads one tensor: shard by shard if the shards are contiguous, as in adaptrun's checkpoints, else whole."""

    def __init__(self, reader: _Reader, name: str) -> None:
        self._reader, self._name = reader, name

    def __call__(self) -> Iterator[Tensor]:
        """Raises RequestError if the files are damaged."""
        try:
            yield from self._read()
        except (
            OSError,
            RuntimeError,
            EOFError,
            LookupError,
            ValueError,
            UnpicklingError,
            CheckpointException,
        ) as error:
            why = reason(error).partition(". ")[0]
            raise RequestError(
                f"{self._reader.folder}: {self._name} cannot be read: {why}; use another checkpoint"
            ) from error

    def _read(self) -> Iterator[Tensor]:
        found = self._reader.read_metadata().state_dict_metadata[self._name]
        assert isinstance(found, TensorStorageMetadata)
        shards = self._reader.shards(self._name, found)
        if shards is None:
            tensor = torch.empty(found.size, dtype=found.properties.dtype)
            load({self._name: tensor}, storage_reader=self._reader, planner=LoadPlanner(), no_dist=True)
            yield tensor
            return
        for place in shards:
            yield self._reader.shard(place)
