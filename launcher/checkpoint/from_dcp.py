"""Weights in a folder of `torch.distributed.checkpoint`, ours or another program's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from launcher.checkpoint.weights import StoredWeight

OURS = "model/model."
"""What stands before the model's own names in our checkpoints."""
AVERAGE = "optimizer/average/model."
"""What stands before the names of averages of the weights, where a run keeps them: they would be its result."""


class _Reader(FileSystemReader):
    """Reads the metadata once, not once a tensor."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._metadata: Metadata = super().read_metadata()

    def read_metadata(self, *_: object, **__: object) -> Metadata:
        return self._metadata


def dcp_weights(folder: Path, prefix: str | None) -> list[StoredWeight]:
    """The weights whose names begin with `prefix`, which is left off; None takes the usual one.

    Raises OSError, or pickle's errors, where the metadata cannot be read.
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
            _Pieces(reader, averaged.get(name, name), found),
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
    """Reads one tensor, whole: its parts are boxes, which need not be runs of elements."""

    def __init__(self, reader: FileSystemReader, name: str, found: TensorStorageMetadata) -> None:
        self._reader, self._name, self._found = reader, name, found

    def __call__(self) -> Iterator[Tensor]:
        tensor = torch.empty(self._found.size, dtype=self._found.properties.dtype)
        load({self._name: tensor}, storage_reader=self._reader, no_dist=True)
        yield tensor
