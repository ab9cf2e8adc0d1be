"""Weights that are still in their files: each rank of a sharded model reads its own part, and nothing else.

`transformers` decides which stored tensor becomes which parameter. So it is given placeholders that take no memory, a
single number seen in the shape of each tensor; where one of them comes to lie tells which tensor belongs there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

Stored = dict[nn.Parameter, "StoredTensor"]
"""Where the values of parameters on the meta device are to be read."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a safetensors file."""

    file: Path
    name: str
    shape: torch.Size

    def rows(self, start: int, stop: int) -> Tensor:
        """Some rows, on the CPU; floats as fp32."""
        with safe_open(self.file, framework="pt") as opened:
            return _fp32(opened.get_slice(self.name)[start:stop])

    def elements(self, start: int, stop: int) -> Tensor:
        """[stop - start] some consecutive elements in row-major order."""
        if not self.shape:
            return self.whole().flatten()[start:stop]
        row = max(1, prod(self.shape[1:]))
        first = start // row
        return self.rows(first, -(-stop // row)).flatten()[start - first * row : stop - first * row]

    def whole(self) -> Tensor:
        """All of it."""
        with safe_open(self.file, framework="pt") as opened:
            return _fp32(opened.get_tensor(self.name))


class Placeholders:
    """A state dict of placeholders for everything in some files.

    tensors: by the names of the files
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._stored: dict[int, StoredTensor] = {}
        for file in files:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 (no mapping)
                    part = opened.get_slice(name)
                    self._add(StoredTensor(file, name, torch.Size(part.get_shape())), part.get_dtype())

    def _add(self, stored: StoredTensor, dtype: str) -> None:
        is_float = dtype.startswith(("F", "BF"))
        number = torch.zeros((), dtype=torch.float32 if is_float else torch.int64)
        self.tensors[stored.name] = number.expand(stored.shape)
        self._stored[number.untyped_storage().data_ptr()] = stored

    def found_in(self, model: nn.Module, new: set[str]) -> Stored | None:
        """Put loaded parameters on the meta device, loaded buffers into memory; tell where parameters are stored.

        new: names of parameters that the files lack
        None where a parameter is made of stored tensors by computation, so that it cannot be read in part.
        """
        found: Stored = {}
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

    def _behind(self, tensor: Tensor) -> StoredTensor | None:
        return self._stored.get(tensor.untyped_storage().data_ptr())


def _fp32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
