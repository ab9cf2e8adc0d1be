"""The consolidated result: a standard Hugging Face folder, read back and compared before it is published.

The skeleton is the folder without its weights: config, tokenizer, card. It is written once at the start of a run, so
that weights can be added to it at the end, or later from any checkpoint.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from torch import Tensor

from launcher.checkpoint.safetensors_writer import SafetensorsFile, grouped
from launcher.checkpoint.weights import DTYPES, Weight
from launcher.engines.base import Engine
from launcher.errors import CheckpointError
from launcher.models.loading import CARD
from launcher.run.folder import write_whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MODEL = "model."
"""Prefix of the saved model's names in the task's module; what stands beside it is not saved."""
COMPILED = "_orig_mod."
"""What torch.compile puts into names."""


def write_skeleton(folder: Path, model: PreTrainedModel, processor: Any, card: dict[str, Any]) -> None:
    """Everything of a model folder but the weights.

    processor: the tokenizer, image processor or feature extractor
    card: what `adaptrun` remembers of the model beside the standard files
    """
    folder.mkdir(exist_ok=True)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    processor.save_pretrained(folder)
    write_whole(folder / CARD, json.dumps(card, indent=2) + "\n")


def publish_model(folder: Path, skeleton: Path, engine: Engine, dtype: str) -> None:
    """Add the weights of a live engine to its skeleton; all ranks call this, each writes some of the files.

    dtype: `fp32`, `bf16` or `fp16`
    Raises CheckpointError when the folder cannot be written or does not hold what memory holds.
    """
    weights = [
        Weight(saved_name(name), tuple(held.size()), DTYPES[dtype] if held.dtype.is_floating_point else held.dtype)
        for name, held in engine.state()["model"].items()
        if name.startswith(MODEL)
    ]
    tensors = ((name, [tensor]) for name, tensor in engine.full_tensors() if name.startswith(MODEL))
    publish(folder, skeleton, weights, ((saved_name(name), pieces) for name, pieces in tensors), dtype)


def saved_name(name: str) -> str:
    """A tensor's name in the model folder: the model's own."""
    return name.removeprefix(MODEL).replace(COMPILED, "")


def publish(
    folder: Path,
    skeleton: Path | None,
    weights: list[Weight],
    tensors: Iterable[tuple[str, Iterable[Tensor]]],
    dtype: str,
) -> None:
    """Write `folder` beside its place, compare it with what was written, then rename it.

    tensors: in the order of `weights`, each as consecutive runs of elements
    """
    partial = folder.with_name(folder.name + ".partial")
    try:
        if _rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            _copy_skeleton(partial, skeleton, dtype)
        problem = None
    except OSError as error:
        problem = f"the model folder {partial} could not be written: {error}"
    _agree(problem)
    files = grouped(weights)
    _agree(_write(partial, files, iter(tensors)))
    try:
        if _rank() == 0:
            _write_index(partial, files)
            if folder.exists():
                shutil.rmtree(folder)
            partial.rename(folder)
    except OSError as error:
        problem = f"the model folder {folder} could not be written: {error}"
    _agree(problem)


def _copy_skeleton(folder: Path, skeleton: Path | None, dtype: str) -> None:
    """The skeleton, with its config naming the number format of the weights."""
    if skeleton is None:
        return
    shutil.copytree(skeleton, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors*"))
    config_file = folder / "config.json"
    if config_file.is_file():
        config = json.loads(config_file.read_text(encoding="utf-8"))
        config["dtype"] = str(DTYPES[dtype]).removeprefix("torch.")
        config_file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _write(folder: Path, files: list[list[Weight]], tensors: Iterator[tuple[str, Iterable[Tensor]]]) -> str | None:
    """This rank's files, compared with what was written; what went wrong, once all tensors have gone by.

    A rank that cannot write goes on taking its part in gathering, since the others wait for it.
    """
    problem = None
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    for number, weights in enumerate(files):
        mine = None
        try:
            if number % ranks == _rank() and problem is None:
                mine = SafetensorsFile(folder / _file_name(number, len(files)), weights)
        except OSError as error:
            problem = f"the model folder {folder} could not be written: {error}"
        for weight in weights:
            name, pieces = next(tensors)
            assert name == weight.name, f"{name} came where {weight.name} was due"
            try:
                if mine is not None:
                    mine.write(weight, pieces)
            except OSError as error:
                mine, problem = None, f"the model folder {folder} could not be written: {error}"
        try:
            if mine is not None:
                mine.close()
                mine.verify()
        except OSError as error:
            problem = f"the model folder {folder} could not be written: {error}"
        except CheckpointError as error:
            problem = str(error)
    return problem


def _file_name(number: int, files: int) -> str:
    return "model.safetensors" if files == 1 else f"model-{number + 1:05d}-of-{files:05d}.safetensors"


def _write_index(folder: Path, files: list[list[Weight]]) -> None:
    """The index that `transformers` reads where there are several files."""
    if len(files) == 1:
        return
    places = {weight.name: _file_name(number, len(files)) for number, part in enumerate(files) for weight in part}
    index = {"metadata": {"total_size": sum(w.nbytes for part in files for w in part)}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _agree(problem: str | None) -> None:
    """Raise on all ranks what went wrong on one."""
    said: list[str | None] = [problem]
    if dist.is_initialized():
        said = [None] * dist.get_world_size()
        dist.all_gather_object(said, problem)
    found = next((text for text in said if text is not None), None)
    if found is not None:
        raise CheckpointError(found)
