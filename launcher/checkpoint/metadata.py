"""Read the `.metadata` of a `torch.distributed.checkpoint` folder, which is a pickle, without running code from it."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from launcher.checkpoint.pickles import Record, read_pickle
from launcher.errors import CheckpointError

METADATA = ".metadata"

_OF_TORCH = "torch.distributed.checkpoint.metadata"
_BEFORE_2_3 = "torch.distributed._shard.sharded_tensor.metadata"


class _Whole(Record):
    pass


class _Tensor(Record):
    pass


class _Bytes(Record):
    pass


class _Properties(Record):
    pass


class _Chunk(Record):
    pass


class _Index(Record):
    pass


class _Place(Record):
    pass


ALLOWED: dict[tuple[str, str], Any] = {
    (_OF_TORCH, "Metadata"): _Whole,
    (_OF_TORCH, "TensorStorageMetadata"): _Tensor,
    (_OF_TORCH, "BytesStorageMetadata"): _Bytes,
    (_OF_TORCH, "TensorProperties"): _Properties,
    (_BEFORE_2_3, "TensorProperties"): _Properties,
    (_OF_TORCH, "ChunkStorageMetadata"): _Chunk,
    (_OF_TORCH, "MetadataIndex"): _Index,
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"): _Place,
    ("torch", "Size"): tuple,
    ("collections", "OrderedDict"): dict,
    (_OF_TORCH, "StorageMeta"): Record,
    (_OF_TORCH, "_MEM_FORMAT_ENCODING"): Record,
    (_BEFORE_2_3, "MEM_FORMAT_ENCODING"): Record,
    ("torch.serialization", "_get_layout"): Record,
    ("pathlib", "PosixPath"): Record,
    ("pathlib", "WindowsPath"): Record,
    ("pathlib._local", "PosixPath"): Record,
    ("pathlib._local", "WindowsPath"): Record,
    **{("torch", name): found for name, found in vars(torch).items() if isinstance(found, torch.dtype)},
}
"""The stand-in for each name that torch writes there; dtypes stand for themselves."""


class MetadataReader(FileSystemReader):
    """torch's own reader, except that the metadata are read once and without running code."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder
        self._metadata: Metadata | None = None

    def read_metadata(self, *_: object, **__: object) -> Metadata:
        """The checkpoint's tensors and their locations. Raises CheckpointError, or OSError."""
        if self._metadata is None:
            self._metadata = read_metadata(self.folder)
            self._metadata.storage_meta = StorageMeta(load_id=self.load_id)
        return self._metadata


def read_metadata(folder: Path) -> Metadata:
    """A checkpoint's tensors and their locations, each value validated. Raises CheckpointError, or OSError."""
    file = folder / METADATA
    found = read_pickle(file, ALLOWED)
    try:
        tensors = _fields(found, _Whole)["state_dict_metadata"]
        places = _fields(found, _Whole)["storage_data"]
        return Metadata(
            {_text(name): _stored(value) for name, value in tensors.items()},
            storage_data={_index(index): _place(place) for index, place in places.items()},
        )
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{file} is damaged: {error}") from error


def _fields(record: object, kind: type[Record]) -> dict[str, Any]:
    if not isinstance(record, kind) or not isinstance(record.state, dict):
        _damaged(record, kind.__name__)
    return record.state


def _stored(record: object) -> TensorStorageMetadata | BytesStorageMetadata:
    if isinstance(record, _Bytes):
        return BytesStorageMetadata()
    fields = _fields(record, _Tensor)
    chunks = [
        ChunkStorageMetadata(_size(_fields(c, _Chunk)["offsets"]), _size(c.state["sizes"])) for c in fields["chunks"]
    ]
    return TensorStorageMetadata(TensorProperties(_dtype(fields["properties"])), _size(fields["size"]), chunks)


def _dtype(record: object) -> torch.dtype:
    """The dtype, which is the first of the tuple in which torch stores a tensor's properties."""
    state = record.state if isinstance(record, _Properties) else None
    dtype = state[0] if isinstance(state, tuple) and state else state.get("dtype") if isinstance(state, dict) else None
    return dtype if isinstance(dtype, torch.dtype) else _damaged(record, "a tensor's properties")


def _index(record: object) -> MetadataIndex:
    fields = _fields(record, _Index)
    offset, index = fields.get("offset"), fields.get("index")
    return MetadataIndex(
        _text(fields["fqn"]),
        None if offset is None else _size(offset),
        None if index is None else _count(index),
    )


def _place(record: object) -> _StorageInfo:
    """Raises ValueError for a file outside the checkpoint's folder."""
    fields = _fields(record, _Place)
    path = PurePosixPath(_text(fields["relative_path"]))
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{path} is not a file of its folder")
    transforms = fields.get("transform_descriptors")
    return _StorageInfo(
        str(path),
        _count(fields["offset"]),
        _count(fields["length"]),
        None if transforms is None else [_text(transform) for transform in transforms],
    )


def _size(value: object) -> torch.Size:
    return torch.Size([_count(n) for n in value]) if isinstance(value, tuple) else _damaged(value, "a size")


def _count(value: object) -> int:
    return value if type(value) is int and 0 <= value < 2**63 else _damaged(value, "a count")


def _text(value: object) -> str:
    return value if isinstance(value, str) else _damaged(value, "a name")


def _damaged(found: object, expected: str) -> NoReturn:
    raise ValueError(f"{expected} was expected, not {type(found).__name__}")
