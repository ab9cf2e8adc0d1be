"""Lazy weights in their files: each rank of a sharded model reads only its own shard.

`transformers` decides which stored tensor becomes which parameter. So it gets placeholders that take no memory: a
single number expanded to the shape of each tensor. The parameter that a placeholder ends up in is the tensor's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
import xxhash
from safetensors import safe_open
from torch import Tensor, nn

from launcher.job.model_files import headers_of

FIRST_NUMBERS = 64
"""Elements of each tensor that `identity_of` reads."""

LazyTensors = dict[nn.Parameter, "LazyTensor"]
"""Where the values of parameters on the meta device are stored."""


class LazyTensor(ABC):
    """A tensor that can be read in parts."""

    shape: torch.Size

    @abstractmethod
    def rows(self, start: int, stop: int) -> Tensor:
        """Some rows, on the CPU; floats as fp32."""

    def elements(self, start: int, stop: int) -> Tensor:
        """[stop - start] some consecutive elements in row-major order."""
        if not self.shape:
            return self.whole().flatten()[start:stop]
        row = max(1, prod(self.shape[1:]))
        first = start // row
        return self.rows(first, -(-stop // row)).flatten()[start - first * row : stop - first * row]

    def whole(self) -> Tensor:
        """All of it."""
        return self.rows(0, self.shape[0])


@dataclass(frozen=True)
class FileTensor(LazyTensor):
    """A tensor of a safetensors file."""

    file: Path
    name: str
    shape: torch.Size

    def rows(self, start: int, stop: int) -> Tensor:
        """Some rows, on the CPU; floats as fp32."""
        with safe_open(self.file, framework="pt") as opened:
            return _fp32(opened.get_slice(self.name)[start:stop])

    def whole(self) -> Tensor:
        """All of it."""
        with safe_open(self.file, framework="pt") as opened:
            return _fp32(opened.get_tensor(self.name))


class MemoryTensor(LazyTensor):
    """A tensor in memory."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor.detach()
        self.shape = tensor.shape

    def rows(self, start: int, stop: int) -> Tensor:
        """Some rows, sharing memory if they are fp32 on the CPU."""
        return _fp32(self._tensor[start:stop].cpu())

    def whole(self) -> Tensor:
        """All of it."""
        return _fp32(self._tensor.cpu())


def readable(parameter: nn.Parameter, stored: LazyTensors) -> LazyTensor:
    """A parameter's values, in its file or in memory."""
    return stored[parameter] if parameter in stored else MemoryTensor(parameter)


def identity_of(parameters: Iterable[nn.Parameter], stored: LazyTensors) -> str:
    """Identity of weights, by the shape and the first elements of each tensor, which any training changes.

    Order and names are ignored, since they may differ between versions of `transformers`.
    """
    marks = []
    for parameter in parameters:
        first = readable(parameter, stored).elements(0, min(FIRST_NUMBERS, parameter.numel()))
        marks.append(f"{tuple(parameter.shape)}".encode() + first.contiguous().numpy().tobytes())
    digest = xxhash.xxh3_128()
    for mark in sorted(marks):
        digest.update(mark)
    return digest.hexdigest()


class Placeholders:
    """A state dict of placeholders for all tensors in some files.

    tensors: by the names in the files
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._stored: dict[int, FileTensor] = {}
        for file in files:
            for name, header in headers_of(file).items():
                self._add(FileTensor(file, name, torch.Size(header.shape)), header.dtype)

    def _add(self, stored: FileTensor, dtype: str) -> None:
        is_float = dtype.startswith(("F", "BF"))
        number = torch.zeros((), dtype=torch.float32 if is_float else torch.int64)
        self.tensors[stored.name] = number.expand(stored.shape)
        self._stored[number.untyped_storage().data_ptr()] = stored

    def found_in(self, model: nn.Module, new: set[str]) -> LazyTensors | None:
        """Move loaded parameters to the meta device, read loaded buffers; returns where the parameters are stored.

        new: names of parameters that are missing in the files
        None if a parameter is computed from stored tensors, so that it cannot be read in parts.
        """
        found: LazyTensors = {}
        moved: dict[nn.Parameter, nn.Parameter] = {}
        for prefix, module in model.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                stored = self._behind(parameter)
                if parameter in moved or stored is not None:
                    if parameter not in moved:
                        meta = torch.empty(parameter.shape, device="meta")
                        moved[parameter] = nn.Parameter(meta, parameter.requires_grad)
                        found[moved[parameter]] = stored  # type: ignore[assignment]
                    module.register_parameter(name, moved[parameter])
                elif f"{prefix}.{name}".lstrip(".") not in new:
                    return None
            for name, buffer in module.named_buffers(recurse=False):
                stored = self._behind(buffer)
                if stored is not None:
                    module._buffers[name] = stored.whole().to(buffer.dtype)
        return found

    def _behind(self, tensor: Tensor) -> FileTensor | None:
        return self._stored.get(tensor.untyped_storage().data_ptr())


def _fp32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
