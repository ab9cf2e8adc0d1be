"""The consolidated result: a standard Hugging Face folder, read back and compared before it is published."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from launcher.engines.base import Engine
from launcher.errors import CheckpointError
from launcher.models.loading import CARD

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LARGEST_FILE = 4 * 2**30
MODEL = "model."
"""Prefix of the saved model's names in the task's module; what stands beside it is not saved."""


def publish_model(
    folder: Path,
    engine: Engine,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    card: dict[str, Any],
    *,
    writes: bool,
) -> None:
    """Write `folder` beside its place, compare it with the weights in memory, then rename it.

    card: what `adaptrun` remembers of the model beside the standard files
    writes: whether this rank writes; all ranks call this, since gathering a sharded tensor takes all of them
    Raises CheckpointError when the folder cannot be written or does not hold what memory holds.
    """
    if not writes:
        for _ in (*engine.full_tensors(), *engine.full_tensors()):  # once to write, once to compare
            pass
        return
    partial = folder.with_name(folder.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        (partial / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
        _write_weights(partial, _own_tensors(engine))
        _compare(partial, _own_tensors(engine))
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    except OSError as error:
        raise CheckpointError(f"the model folder {partial} could not be written: {error}") from error


def _own_tensors(engine: Engine) -> Iterator[tuple[str, Tensor]]:
    """The model's tensors under its own names; what stands beside the model is gathered too and left out."""
    for name, tensor in engine.full_tensors():
        if name.startswith(MODEL):
            yield name.removeprefix(MODEL), tensor


def _write_weights(folder: Path, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Files of at most `LARGEST_FILE` bytes each, one in memory at a time, with the index that `transformers` reads."""
    written: list[list[str]] = []
    total = 0
    for held in _filled(tensors):
        save_file(held, folder / f"part-{len(written)}.safetensors", metadata={"format": "pt"})
        written.append(list(held))
        total += sum(tensor.nbytes for tensor in held.values())
    files = ["model.safetensors"]
    if len(written) > 1:
        files = [f"model-{n:05d}-of-{len(written):05d}.safetensors" for n in range(1, len(written) + 1)]
        places = {name: file for file, names in zip(files, written, strict=True) for name in names}
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
    for number, file in enumerate(files):
        (folder / f"part-{number}.safetensors").rename(folder / file)


def _filled(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """The tensors in groups of at most `LARGEST_FILE` bytes, or of one larger tensor."""
    held: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors:
        if held and size + tensor.nbytes > LARGEST_FILE:
            yield held
            held, size = {}, 0
        held[name] = tensor.detach().cpu().contiguous()
        size += tensor.nbytes
    yield held


def _compare(folder: Path, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Every tensor of the files equals the one in memory to the last bit, and none is missing or extra."""
    read: set[str] = set()
    files = {name: file for file in folder.glob("*.safetensors") for name in _names(file)}
    for name, tensor in tensors:
        if name not in files:
            raise CheckpointError(f"{folder}: {name} was not written")
        with safe_open(files[name], framework="pt") as file:
            if not torch.equal(file.get_tensor(name), tensor.detach().cpu()):
                raise CheckpointError(f"{folder}: {name} reads back different from memory; is the disk sound?")
        read.add(name)
    if extra := sorted(set(files) - read):
        raise CheckpointError(f"{folder} holds tensors that the model does not: {', '.join(extra)}")


def _names(file: Path) -> list[str]:
    with safe_open(file, framework="pt") as opened:
        return list(opened.keys())
