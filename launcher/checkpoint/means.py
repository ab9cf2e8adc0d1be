"""The mean of several model folders, one tensor in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from launcher.checkpoint.model_folder import Layout, publish
from launcher.checkpoint.safetensors_writer import CODES
from launcher.checkpoint.weights import DTYPES, StoredWeight
from launcher.errors import ModelError
from launcher.job.model_files import headers_of, safetensors_files

Places = dict[str, Path]
"""The file that holds each tensor."""


def pour(folders: Sequence[Path], model: nn.Module) -> None:
    """Set the tensors of `model` to the means over the folders. Raises ModelError for a folder of another model."""
    own = model.state_dict()
    for weight in means(folders):
        if weight.name not in own:
            raise ModelError(f"{folders[0]} has {weight.name}, and {type(model).__name__} does not; save it again")
        for piece in weight.pieces():
            own[weight.name].copy_(piece)


def publish_mean(folders: Sequence[Path], output: Path, dtype: str) -> None:
    """Write the mean as a model folder, with the other files of the first folder. All ranks call this."""
    weights = means(folders)
    written = [weight.written_in(DTYPES[dtype]) for weight in weights]
    publish(output, folders[0], written, ((w.name, w.pieces()) for w in weights), dtype, Layout())


def means(folders: Sequence[Path]) -> list[StoredWeight]:
    """The mean of each tensor, read lazily; integer tensors are taken from the first folder.

    Raises ModelError if a folder has other tensors than the first.
    """
    places = [_places(folder) for folder in folders]
    shapes = [{name: _shape(file, name) for name, file in place.items()} for place in places]
    for folder, found in zip(folders[1:], shapes[1:], strict=True):
        different = sorted(name for name in {*shapes[0], *found} if shapes[0].get(name) != found.get(name))
        if different:
            raise ModelError(f"{folder} is of another model than {folders[0]}: they differ in {different[0]}")
    return [
        StoredWeight(name, shapes[0][name], _dtype(places[0][name], name), _Mean(places, name)) for name in shapes[0]
    ]


class _Mean:
    """Reads one tensor from one folder at a time; sums in float64."""

    def __init__(self, places: Sequence[Places], name: str) -> None:
        self._places, self._name = places, name

    def __call__(self) -> Iterator[Tensor]:
        first = _read(self._places[0], self._name)
        if not first.is_floating_point():
            yield first
            return
        total = first.double()
        for place in self._places[1:]:
            total += _read(place, self._name)
        yield (total / len(self._places)).float()


def _places(folder: Path) -> Places:
    found: Places = {}
    for file in safetensors_files("folder", folder):
        found |= dict.fromkeys(headers_of(file), file)
    if not found:
        raise ModelError(f"{folder} holds no safetensors files")
    return found


def _shape(file: Path, name: str) -> tuple[int, ...]:
    return headers_of(file)[name].shape


def _dtype(file: Path, name: str) -> torch.dtype:
    code = headers_of(file)[name].dtype
    found = next((dtype for dtype, known in CODES.items() if known == code), None)
    if found is None:
        raise ModelError(f"{file} holds {name} as {code}, which cannot be averaged")
    return found


def _read(places: Places, name: str) -> Tensor:
    with safe_open(places[name], framework="pt") as opened:
        tensor: Tensor = opened.get_tensor(name)
    return tensor
