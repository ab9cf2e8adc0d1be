"""The consolidated result: a standard Hugging Face folder, read back and compared before it is published.

The skeleton is the folder without its weights: config, tokenizer, card. It is written once, at the start of a run.
Weights are added to it at the end of the run, or later from any checkpoint.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from torch import Tensor

from launcher.checkpoint.safetensors_writer import SafetensorsFile, grouped
from launcher.checkpoint.weights import DTYPES, Weight
from launcher.engines.base import Engine
from launcher.engines.mesh import process_count, process_rank
from launcher.errors import CheckpointError, ModelError
from launcher.files import HASHES, fault_of_folder, hash_folder, partial_of, remove_leftovers
from launcher.job.model_files import read_object
from launcher.job.pretrained import ADAPTER_CONFIG, ADAPTER_MODEL_CONFIG, ADAPTER_WEIGHTS, CARD, read_card
from launcher.models.weights.adapters import adapter_name
from launcher.run.folder import write_whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MODEL = "model."
"""Prefix of the saved model's names in the task's module; names without it are not saved."""
COMPILED = "_orig_mod."
"""The part that torch.compile adds to names."""


@dataclass(frozen=True)
class Layout:
    """The weights of a folder and their names: the whole model's, or adapters' in the format of `peft`.

    whole: None for the whole model; for adapters, the modules that are trained whole
    """

    whole: tuple[str, ...] | None = None

    @classmethod
    def of(cls, skeleton: Path | None) -> Layout:
        """The layout of the folder that a skeleton is for."""
        file = None if skeleton is None else skeleton / ADAPTER_CONFIG
        if file is None or not file.is_file():
            return cls()
        whole = read_object(file).get("modules_to_save") or []
        if not isinstance(whole, list) or not all(isinstance(name, str) for name in whole):
            raise ModelError(f"{file}: modules_to_save is not a list of names")
        return cls(tuple(whole))

    def name_of(self, name: str) -> str | None:
        """A weight's name in the folder; None if the folder does not contain it."""
        return name if self.whole is None else adapter_name(name, self.whole)

    def files(self, weights: list[Weight]) -> dict[str, list[Weight]]:
        """The weights of each file."""
        if self.whole is not None:
            return {ADAPTER_WEIGHTS: weights}
        parts = grouped(weights)
        return {_file_name(number, len(parts)): part for number, part in enumerate(parts)}


def write_skeleton(
    folder: Path,
    model: PreTrainedModel,
    processor: Any,
    card: dict[str, Any],
    adapter_config: dict[str, Any] | None = None,
    max_length: int | None = None,
) -> None:
    """Write all files of a model folder except the weights.

    processor: the tokenizer, image processor or feature extractor
    card: what `adaptrun` records about the model in addition to the standard files
    adapter_config: the adapters' `peft` configuration, if the folder will hold adapters only
    max_length: tokens at which the folder's tokenizer truncates a text; None keeps the pretrained value
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    model.config.architectures = [type(model).__name__]
    if adapter_config is None:
        model.config.save_pretrained(folder)
    else:
        model.config.save_pretrained(folder / ADAPTER_MODEL_CONFIG)
        write_whole(folder / ADAPTER_CONFIG, json.dumps(adapter_config, indent=2, sort_keys=True) + "\n")
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    _save_processor(folder, processor, max_length)
    write_whole(folder / CARD, json.dumps(card, indent=2) + "\n")
    hash_folder(folder)


def fault_of_skeleton(skeleton: Path) -> str | None:
    """What is wrong with a skeleton; None for nothing, or if it has no hashes (another program or version wrote it)."""
    if not skeleton.is_dir():
        return "it is missing"
    return fault_of_folder(skeleton) if (skeleton / HASHES).exists() else None


def _save_processor(folder: Path, processor: Any, max_length: int | None) -> None:
    was = getattr(processor, "model_max_length", None)
    if max_length is None or was is None:
        processor.save_pretrained(folder)
        return
    processor.model_max_length = max_length
    try:
        processor.save_pretrained(folder)
    finally:
        processor.model_max_length = was


def publish_model(folder: Path, skeleton: Path, engine: Engine, dtype: str) -> None:
    """Add the weights of a live engine to its skeleton. All ranks call this, and each writes some of the files.

    dtype: `fp32`, `bf16` or `fp16`
    Raises CheckpointError if the folder cannot be written, or if the files differ from the weights in memory.
    """
    layout = Layout.of(skeleton)

    def name_of(name: str) -> str | None:
        return layout.name_of(saved_name(name)) if name.startswith(MODEL) else None

    weights = [
        Weight(written, tuple(held.size()), DTYPES[dtype] if held.dtype.is_floating_point else held.dtype)
        for name, held in engine.state()["model"].items()
        if (written := name_of(name)) is not None
    ]
    tensors = engine.full_tensors(lambda name: name_of(name) is not None)
    publish(folder, skeleton, weights, ((name_of(name) or "", [tensor]) for name, tensor in tensors), dtype, layout)


def saved_name(name: str) -> str:
    """A tensor's name in the model folder, which is the model's own name for it."""
    return name.removeprefix(MODEL).replace(COMPILED, "")


def publish(
    folder: Path,
    skeleton: Path | None,
    weights: list[Weight],
    tensors: Iterable[tuple[str, Iterable[Tensor]]],
    dtype: str,
    layout: Layout,
) -> None:
    """Write `folder` under a temporary name, read it back and compare, then rename it.

    tensors: in the order of `weights`, each as consecutive ranges of elements
    """
    partial = _agreed_partial(folder)
    try:
        if _rank() == 0:
            shutil.rmtree(folder.with_name(folder.name + ".partial"), ignore_errors=True)  # left by an earlier version
            remove_leftovers(folder.parent)
            partial.mkdir(parents=True)
            _copy_skeleton(partial, skeleton, dtype, layout)
        problem = None
    except OSError as error:
        problem = f"the model folder {partial} could not be written: {error}"
    try:
        _agree(problem)
        files = layout.files(weights)
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
    finally:
        if _rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)


def _copy_skeleton(folder: Path, skeleton: Path | None, dtype: str, layout: Layout) -> None:
    """Copy the skeleton, and set the dtype in its config to that of the weights.

    If a whole model is written with the skeleton of adapters, the adapters' own files are left out.
    """
    if skeleton is None:
        return
    fault = fault_of_skeleton(skeleton)
    if fault is not None:
        raise OSError(
            f"{skeleton} is damaged: {fault}; adaptrun consolidate can copy these files from another "
            "folder: --like FOLDER"
        )
    shutil.copytree(skeleton, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors*", HASHES))
    if layout.whole is None and (folder / ADAPTER_CONFIG).is_file():
        (folder / ADAPTER_CONFIG).unlink()
        (folder / "README.md").unlink(missing_ok=True)  # it describes how to load adapters
        shutil.copytree(folder / ADAPTER_MODEL_CONFIG, folder, dirs_exist_ok=True)
        shutil.rmtree(folder / ADAPTER_MODEL_CONFIG)
        card = {key: value for key, value in read_card(folder).items() if key not in ("base", "merge")}
        (folder / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    config_file = folder / "config.json"
    if layout.whole is None and config_file.is_file():
        config = read_object(config_file)
        config["dtype"] = str(DTYPES[dtype]).removeprefix("torch.")
        config_file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _write(folder: Path, files: dict[str, list[Weight]], tensors: Iterator[tuple[str, Iterable[Tensor]]]) -> str | None:
    """Write this rank's files, read them back and compare. Returns what went wrong, after the last tensor.

    A rank that cannot write still takes part in gathering, since the others wait for it.
    """
    problem = None
    ranks = process_count()
    for number, (file, weights) in enumerate(files.items()):
        mine = None
        try:
            if number % ranks == _rank() and problem is None:
                mine = SafetensorsFile(folder / file, weights)
        except OSError as error:
            problem = f"the model folder {folder} could not be written: {error}"
        for weight in weights:
            name, pieces = next(tensors)
            assert name == weight.name, f"got {name}, expected {weight.name}"
            try:
                if mine is not None:
                    mine.write(weight, pieces)
            except OSError as error:
                mine, problem = None, f"the model folder {folder} could not be written: {error}"
            except CheckpointError as error:
                mine, problem = None, str(error)
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


def _write_index(folder: Path, files: dict[str, list[Weight]]) -> None:
    """The index that `transformers` reads if there are several files."""
    if len(files) == 1:
        return
    places = {weight.name: file for file, weights in files.items() for weight in weights}
    total = sum(weight.nbytes for weights in files.values() for weight in weights)
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def _agreed_partial(folder: Path) -> Path:
    """A temporary name, the same on all ranks."""
    said = [str(partial_of(folder))]
    if dist.is_initialized():
        dist.broadcast_object_list(said, src=0)
    return Path(said[0])


def _rank() -> int:
    return process_rank()


def _agree(problem: str | None) -> None:
    """Raise a problem of one rank on all ranks."""
    said: list[str | None] = [problem]
    if dist.is_initialized():
        said = [None] * process_count()
        dist.all_gather_object(said, problem)
    found = next((text for text in said if text is not None), None)
    if found is not None:
        raise CheckpointError(found)
