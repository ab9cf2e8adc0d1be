"""Weights in a folder of `torch.distributed.checkpoint`, ours or another program's."""

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
"""What stands before the model's own names in our checkpoints."""
AVERAGE = "optimizer/average/model."
"""What stands before the names of averages of the weights, where a run keeps them: they would be its result."""


class _Reader(MetadataReader):
    """Reads parts of a tensor one at a time."""

    def parts(self, name: str, found: TensorStorageMetadata) -> list[Any] | None:
        """Where the parts of a tensor lie, in order; None unless each is a run of elements, stored as torch does."""
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

    def part(self, place: Any) -> Tensor:
        """One of them, in memory once: `load` has each twice."""
        with (self.folder / place.relative_path).open("rb") as file:
            tensor: Tensor = torch.load(self._slice_file(file, place), map_location="cpu", weights_only=True)
        return tensor


def dcp_weights(folder: Path, prefix: str | None) -> list[StoredWeight]:
    """The weights whose names begin with `prefix`, which is left off; None takes the usual one.

    Raises CheckpointError, or OSError, where the metadata cannot be read.
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
    """Ours; or what most programs write beside an optimizer; or none, where there are only weights."""
    if any(name.startswith(OURS) for name in names):
        return OURS
    return "model." if any(name.startswith("optim") for name in names) else ""


class _Pieces:
    """Reads one tensor: part by part where its parts are runs of elements, as ours are, else whole."""

    def __init__(self, reader: _Reader, name: str) -> None:
        self._reader, self._name = reader, name

    def __call__(self) -> Iterator[Tensor]:
        """Raises RequestError where the files are damaged."""
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
                f"{self._reader.folder}: {self._name} cannot be read: {why}; take another one"
            ) from error

    def _read(self) -> Iterator[Tensor]:
        found = self._reader.read_metadata().state_dict_metadata[self._name]
        assert isinstance(found, TensorStorageMetadata)
        parts = self._reader.parts(self._name, found)
        if parts is None:
            tensor = torch.empty(found.size, dtype=found.properties.dtype)
            load({self._name: tensor}, storage_reader=self._reader, planner=LoadPlanner(), no_dist=True)
            yield tensor
            return
        for place in parts:
            yield self._reader.part(place)
