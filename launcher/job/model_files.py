"""The files of a model folder, read as what they are: data from elsewhere, of which nothing is taken on trust.

Whoever needs the files of a model, their headers or a JSON file of the folder reads them here, so that a file that lies
is refused in one way, before anything is loaded.
"""

from __future__ import annotations

import json
import pickletools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile, ZipFile, is_zipfile

from safetensors import SafetensorError, safe_open

from launcher.errors import ModelError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
LARGEST_JSON = 2**28
"""Bytes of a JSON file of a model folder; the index of the largest models takes a hundredth of it."""
LARGEST_PICKLE = 2**28
"""Bytes of the part of a state dict that is no tensor."""
OF_TENSORS = (
    *("collections", "torch", "torch._tensor", "torch._utils", "torch.nn.parameter", "torch.serialization"),
    *("torch.storage", "_codecs encode", "builtins bytearray", "builtins complex", "builtins set"),
)
"""Modules, and single names, that pickles of tensors are made of. What torch itself allows is a part of them."""


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of one tensor.

    dtype: as the format calls it, such as `BF16`
    """

    dtype: str
    shape: tuple[int, ...]


def read_object(file: Path) -> dict[str, Any]:
    """The object of a JSON file. Raises ModelError where it is none."""
    try:
        if file.stat().st_size > LARGEST_JSON:
            raise ModelError(f"{file} is too large for a file of this name; replace it by the model's own file")
        found = json.loads(file.read_text(encoding="utf-8"))
    except RecursionError:
        raise ModelError(f"{file} is nested too deeply to be read") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{file} holds {type(found).__name__}, and a JSON object is expected")
    return found


def headers_of(file: Path) -> Mapping[str, Header]:
    """The tensors of a safetensors file, by name. Raises ModelError for a file that is none, or whose header lies."""
    try:
        status = file.stat()
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read: {error}") from error
    return _headers(file, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1024)
def _headers(file: Path, changed: int, size: int) -> Mapping[str, Header]:
    """changed, size: tell one file from the next of its name"""
    try:
        with safe_open(file, framework="numpy") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
            return {name: Header(part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    except (OSError, ValueError, OverflowError, SafetensorError) as error:
        raise ModelError(f"{file} is no valid safetensors file: {error}; download or save it again") from error


def safetensors_files(kind: str, place: Path) -> list[Path]:
    """The files that hold the weights of a folder or state dict; empty where they are not safetensors.

    A folder with one file has it used alone, as `transformers` does.
    Raises ModelError for an index that is broken, or that says what is not so.
    """
    if kind == "state_dict":
        return [place] if place.suffix == ".safetensors" else []
    if kind != "folder":
        return []
    if (place / SINGLE).is_file():
        return [place / SINGLE]
    index = place / INDEX
    if not index.is_file():
        return []
    places = _weight_map(index)
    files = [place / name for name in sorted(set(places.values()))]
    held = {file.name: headers_of(file) for file in files}
    for tensor, name in places.items():
        if tensor not in held[name]:
            raise ModelError(f"{index}: {name} does not hold {tensor}; download or save the model again")
    seen: dict[str, str] = {}
    for name, tensors in held.items():
        twice = next((tensor for tensor in tensors if tensor in seen), None)
        if twice is not None:
            raise ModelError(f"{index}: {seen[twice]} and {name} both hold {twice}; download or save the model again")
        seen |= dict.fromkeys(tensors, name)
    return files


def kernel_of_the_hub(config: object) -> str | None:
    """The kernel that a config, or a part of it, names as its attention by an id of the hub: code that would be run."""
    left = [config]
    while left:
        part = left.pop()
        if isinstance(part, list):
            left += part
        elif isinstance(part, dict):
            for key in ("attn_implementation", "_attn_implementation"):
                said = part.get(key)
                for name in said.values() if isinstance(said, dict) else [said]:  # one name for each part of the model
                    if is_kernel_of_the_hub(name):
                        return str(name)
            left += part.values()
    return None


def is_kernel_of_the_hub(attention: object) -> bool:
    """Whether a kind of attention is an id of the hub, and not one of the names that `transformers` knows."""
    return isinstance(attention, str) and "/" in attention


def refusal_of_kernel(kernel: str, place: str) -> ModelError:
    """place: the folder or the hub id of the config that names it"""
    return ModelError(
        f"the config in {place} names {kernel}, which is code from the hub; remove its "
        "attn_implementation, or if you trust the code, set model.trust_remote_code: true in the job"
    )


def check_weights(kind: str, place: Path) -> None:
    """Read all that can be read of weights without loading them. Raises ModelError where they lie, or are code."""
    for file in safetensors_files(kind, place):
        headers_of(file)
    for file in _pickles(kind, place):
        _check_pickle(file)


def _pickles(kind: str, place: Path) -> list[Path]:
    """The files of weights that are pickles, where those would be loaded."""
    if kind == "state_dict":
        return [] if place.suffix == ".safetensors" else [place]
    if kind != "folder" or (place / SINGLE).is_file() or (place / INDEX).is_file():
        return []
    if (place / PICKLE).is_file():
        return [place / PICKLE]
    index = place / PICKLE_INDEX
    return [place / name for name in sorted(set(_weight_map(index).values()))] if index.is_file() else []


def _weight_map(index: Path) -> dict[str, str]:
    """Which file of the folder each tensor is in."""
    said = read_object(index)
    places, metadata = said.get("weight_map"), said.get("metadata")
    if not isinstance(places, dict) or not places or not isinstance(metadata, dict | None):
        raise ModelError(f"{index} has no weight_map of tensors and files; download or save the model again")
    for tensor, name in places.items():
        if not isinstance(name, str) or name in ("", ".", "..") or {"/", "\\", "\0"} & set(name):
            raise ModelError(f"{index}: {tensor} should be in {name!r}, which is not a file of the folder")
        if not (index.parent / name).is_file():
            raise ModelError(f"{index}: there is no {name} in the folder; download the whole model")
    return places


def _check_pickle(file: Path) -> None:
    """Refuse a state dict that wants to run code. torch, which reads it in a rank, allows less still."""
    try:
        with file.open("rb") as opened:
            wanted = [name for name in _names_in(file, opened) if not _is_of_tensors(name)]
    except (OSError, ValueError, EOFError, KeyError, BadZipFile, RuntimeError, NotImplementedError) as error:
        raise ModelError(f"{file} is not a plain state dict saved by torch: {error}; save it again") from error
    if wanted:
        raise ModelError(f"{file} is not a plain state dict: {refusal_of_pickle(wanted[0])}")


def refusal_of_pickle(named: str = "") -> str:
    """Why a pickle is not read, and the way out."""
    what = f"It calls {named}; if" if named else "If"
    return (
        f"reading it would run code from the file, which is refused. {what} you trust it, convert it once: "
        "`safetensors.torch.save_file(torch.load(path, weights_only=False)['state_dict'], 'model.safetensors')`"
    )


def _is_of_tensors(name: str) -> bool:
    return name in OF_TENSORS or name.partition(" ")[0] in OF_TENSORS


def _names_in(file: Path, opened: IO[bytes]) -> Iterator[str]:
    """What the pickles of a file name, as `module name`; none of them is loaded."""
    if not is_zipfile(opened):
        opened.seek(0)
        for _ in range(4):  # the old format: a number, a version, the machine, and only then the tensors
            yield from _names(opened)
        return
    with ZipFile(opened) as archive:
        for entry in archive.infolist():
            if entry.filename.rpartition("/")[2] == "data.pkl":
                if entry.file_size > LARGEST_PICKLE:
                    raise ValueError("its list of tensors is too long")
                with archive.open(entry) as pickle:
                    yield from _names(pickle)


def _names(pickle: IO[bytes]) -> Iterator[str]:
    texts: list[str] = []
    for operation, argument, _ in pickletools.genops(pickle):
        if operation.name in ("GLOBAL", "INST"):
            yield str(argument)
        elif operation.name == "STACK_GLOBAL":
            yield " ".join(islice(texts, max(0, len(texts) - 2), None))
        elif isinstance(argument, str):
            texts.append(argument)
