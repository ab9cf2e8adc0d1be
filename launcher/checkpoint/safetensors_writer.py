"""Write safetensors piece by piece. The library's own writer needs all tensors of a file in memory at once.

A file is the length of its header (8 bytes, little-endian), the header (JSON: dtype, shape and offsets of each tensor),
and the tensors' bytes: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
import xxhash
from torch import Tensor

from launcher.checkpoint.weights import Weight
from launcher.errors import CheckpointError

LARGEST_FILE = 4 * 2**30
BUFFER = 16 * 2**20
CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def grouped(weights: Iterable[Weight]) -> list[list[Weight]]:
    """The weights of each file: at most `LARGEST_FILE` bytes, or one larger tensor."""
    files: list[list[Weight]] = []
    room = -1
    for weight in weights:
        if room < weight.nbytes:
            files.append([])
            room = LARGEST_FILE
        files[-1].append(weight)
        room -= weight.nbytes
    return files


class SafetensorsFile:
    """One file, written in the order of `weights`. Raises OSError."""

    def __init__(self, path: Path, weights: Sequence[Weight]) -> None:
        self.path, self._weights = path, weights
        self._file = path.open("wb")
        self._hashes: dict[str, str] = {}
        header = json.dumps(_header(weights)).encode()
        header += b" " * (-len(header) % 8)  # the data begin at a multiple of 8
        self._data = 8 + len(header)
        self._file.write(len(header).to_bytes(8, "little") + header)

    def write(self, weight: Weight, pieces: Iterable[Tensor]) -> None:
        """Append the next weight, given as consecutive ranges of its elements.

        Raises CheckpointError for too few or too many of them.
        """
        digest, left = xxhash.xxh3_128(), weight.nbytes
        for block in _blocks(pieces, weight.dtype):
            data = block.view(torch.uint8).numpy().data
            digest.update(data)
            left -= self._file.write(data)
            del block, data  # before the next one is made
        if left:
            raise CheckpointError(f"{weight.name} has {weight.nbytes - left} bytes, expected {weight.nbytes}")
        self._hashes[weight.name] = digest.hexdigest()

    def close(self) -> None:
        """Flush and sync the file to disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def verify(self) -> None:
        """Read the file back and compare it with what was written. Raises CheckpointError."""
        with self.path.open("rb") as file:
            file.seek(self._data)
            for weight in self._weights:
                digest = xxhash.xxh3_128()
                for size in _sizes(weight.nbytes):
                    digest.update(file.read(size))
                if digest.hexdigest() != self._hashes.get(weight.name):
                    raise CheckpointError(
                        f"{self.path}: {weight.name} on disk differs from memory after writing; check the disk"
                    )
            if file.read(1):
                raise CheckpointError(f"{self.path} is longer than the data written")


def _header(weights: Sequence[Weight]) -> dict[str, object]:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for weight in weights:
        places = [begin, begin + weight.nbytes]
        header[weight.name] = {"dtype": CODES[weight.dtype], "shape": weight.shape, "data_offsets": places}
        begin += weight.nbytes
    return header


def _blocks(pieces: Iterable[Tensor], dtype: torch.dtype) -> Iterator[Tensor]:
    """The elements in `dtype` on the CPU, at most one buffer at a time."""
    for piece in pieces:
        for block in piece.detach().reshape(-1).split(BUFFER // dtype.itemsize):
            if block.numel():
                yield block.to("cpu", dtype).contiguous()


def _sizes(total: int) -> Iterator[int]:
    for begin in range(0, total, BUFFER):
        yield min(BUFFER, total - begin)
