"""The model folder is standard, equals memory to the last bit, and appears only when both are so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, GPT2Config

from launcher.checkpoint import model_folder, safetensors_writer
from launcher.checkpoint.model_folder import Layout, publish_model, write_skeleton
from launcher.checkpoint.weights import Weight
from launcher.engines import make_engine
from launcher.engines.base import Engine, EngineSettings
from launcher.errors import CheckpointError
from launcher.job.sections.training import Optimizer
from tests.worlds import Worlds


def held(model: nn.Module, beside: nn.Module | None = None) -> Engine:
    """An engine that holds a model, and perhaps something beside it that is not saved."""
    module = nn.Module()
    module.model = model
    if beside is not None:
        module.adversary = beside
    engine = make_engine("single", EngineSettings(torch.device("cpu"), precision="fp32", clip_norm=None))
    engine.prepare(module, Optimizer(), {})
    return engine


@pytest.fixture
def model(tiny_model: Path) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=3)


def publish(folder: Path, engine: Any, model: Any, tiny_model: Path, dtype: str = "fp32") -> None:
    skeleton = folder.parent / f"skeleton{dist.get_rank() if dist.is_initialized() else 0}"
    write_skeleton(skeleton, model, AutoTokenizer.from_pretrained(tiny_model), {"task": "text-classification"})
    publish_model(folder, skeleton, engine, dtype)


@pytest.mark.parametrize("largest", [2**32, 20_000])
def test_transformers_loads_it_with_nothing_missing(
    largest: int, model: Any, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safetensors_writer, "LARGEST_FILE", largest)
    publish(tmp_path / "model", held(model, beside=nn.Linear(2, 2)), model, tiny_model)
    loaded, found = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert (len(list((tmp_path / "model").glob("*.safetensors"))) > 1) == (largest < 2**32)
    assert AutoTokenizer.from_pretrained(tmp_path / "model").vocab == AutoTokenizer.from_pretrained(tiny_model).vocab
    assert json.loads((tmp_path / "model" / "adaptrun.json").read_text()) == {"task": "text-classification"}


def test_tied_weights_are_written_once(tiny_model: Path, tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=2, n_positions=16, tie_word_embeddings=True)
    model = AutoModelForCausalLM.from_config(config)
    publish(tmp_path / "model", held(model), model, tiny_model)
    names = set(load_file(tmp_path / "model" / "model.safetensors"))
    assert len(names & {"lm_head.weight", "transformer.wte.weight"}) == 1
    loaded, found = AutoModelForCausalLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not found["missing_keys"]
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)


def test_it_replaces_an_older_one_and_what_a_killed_attempt_left(model: Any, tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    publish(folder, held(model), model, tiny_model)
    folder.with_name("model.partial").mkdir()
    (folder.with_name("model.partial") / "model-00007-of-00009.safetensors").write_bytes(b"left over")
    with torch.no_grad():
        model.classifier.bias += 1
    publish(folder, held(model), model, tiny_model)
    assert torch.equal(load_file(folder / "model.safetensors")["classifier.bias"], model.classifier.bias)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "skeleton0"]


def test_a_file_that_differs_from_memory_is_never_published(
    model: Any, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = safetensors_writer.SafetensorsFile.close

    def one_bit_off(file: safetensors_writer.SafetensorsFile) -> None:
        close(file)
        content = bytearray(file.path.read_bytes())
        content[-1] ^= 1
        file.path.write_bytes(content)

    monkeypatch.setattr(safetensors_writer.SafetensorsFile, "close", one_bit_off)
    with pytest.raises(CheckpointError, match=r"on disk differs from memory after writing; check the disk"):
        publish(tmp_path / "model", held(model), model, tiny_model)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("numbers", [5, 7])
def test_a_weight_that_comes_with_too_few_or_many_numbers_is_never_published(numbers: int, tmp_path: Path) -> None:
    weight = Weight("w", (2, 3), torch.float32)
    with pytest.raises(CheckpointError, match=f"w has {4 * numbers} bytes, expected 24"):
        model_folder.publish(tmp_path / "model", None, [weight], [("w", [torch.ones(numbers)])], "fp32", Layout())
    assert not (tmp_path / "model").exists()


def test_a_full_disk_is_told(model: Any, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors_writer.SafetensorsFile, "close", full_disk)
    with pytest.raises(CheckpointError, match=r"could not be written: .*No space left on device"):
        publish(tmp_path / "model", held(model), model, tiny_model)


@pytest.mark.parametrize(("dtype", "expected"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_the_number_format_asked_for_is_in_the_files_and_the_config(
    dtype: str, expected: torch.dtype, model: Any, tiny_model: Path, tmp_path: Path
) -> None:
    model.register_buffer("seen", torch.tensor([3, 4]))
    publish(tmp_path / "model", held(model), model, tiny_model, dtype)
    written = load_file(tmp_path / "model" / "model.safetensors")
    assert written["seen"].tolist() == [3, 4]
    for name, tensor in model.named_parameters():
        assert torch.equal(written[name], tensor.to(expected))
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", dtype="auto")
    assert loaded.dtype == expected


def publish_with_ranks(rank: int, size: int, folder: str, tiny_model: str, fails: bool) -> str:
    """With files so small that each rank has several; perhaps on a disk that fills up on the last rank."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=3)
    before, write = safetensors_writer.LARGEST_FILE, safetensors_writer.SafetensorsFile.write
    safetensors_writer.LARGEST_FILE = 20_000
    written = 0

    def noted(file: safetensors_writer.SafetensorsFile, *arguments: Any) -> None:
        nonlocal written
        written += 1
        if fails and rank == size - 1:
            raise OSError(28, "No space left on device")
        write(file, *arguments)

    safetensors_writer.SafetensorsFile.write = noted  # type: ignore[method-assign]
    try:
        publish(Path(folder) / "model", held(model), model, Path(tiny_model))
    except CheckpointError as error:
        return str(error)
    finally:
        safetensors_writer.LARGEST_FILE, safetensors_writer.SafetensorsFile.write = before, write  # type: ignore[method-assign]
    return str(written)


@pytest.mark.parametrize("size", [2, 3])
def test_each_file_is_written_by_another_rank(size: int, tiny_model: Path, worlds: Worlds, tmp_path: Path) -> None:
    counts = [int(count) for count in worlds.run(size, publish_with_ranks, str(tmp_path), str(tiny_model), False)]
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=3)
    assert min(counts) > 0
    assert sum(counts) == len(model.state_dict())
    _, found = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_all_ranks_tell_what_one_could_not_write(tiny_model: Path, worlds: Worlds, tmp_path: Path) -> None:
    for said in worlds.run(2, publish_with_ranks, str(tmp_path), str(tiny_model), True):
        assert "could not be written: [Errno 28] No space left on device" in said
    assert not (tmp_path / "model").exists()
