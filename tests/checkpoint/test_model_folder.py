"""The model folder is standard, equals memory to the last bit, and appears only when both are so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, GPT2Config

from launcher.checkpoint import model_folder
from launcher.checkpoint.model_folder import publish_model
from launcher.engines.base import EngineSettings
from launcher.engines.single import SingleEngine
from launcher.errors import CheckpointError
from launcher.job.schema import Optimizer


def held(model: nn.Module, beside: nn.Module | None = None) -> SingleEngine:
    """An engine that holds a model, and perhaps something beside it that is not saved."""
    module = nn.Module()
    module.model = model
    if beside is not None:
        module.adversary = beside
    engine = SingleEngine(EngineSettings(torch.device("cpu"), precision="fp32", clip_norm=None))
    engine.prepare(module, Optimizer(), {})
    return engine


@pytest.fixture
def model(tiny_model: Path) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=3)


def publish(folder: Path, engine: Any, model: Any, tiny_model: Path) -> None:
    publish_model(
        folder, engine, model, AutoTokenizer.from_pretrained(tiny_model), {"task": "text-classification"}, writes=True
    )


@pytest.mark.parametrize("largest", [2**32, 20_000])
def test_transformers_loads_it_with_nothing_missing(
    largest: int, model: Any, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_folder, "LARGEST_FILE", largest)
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
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_file_that_differs_from_memory_is_never_published(
    model: Any, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_bit_off(tensors: dict[str, Tensor], file: Path, metadata: dict[str, str]) -> None:
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        tensors["classifier.bias"].view(torch.int32)[0] ^= 1
        save_file(tensors, file, metadata=metadata)

    monkeypatch.setattr(model_folder, "save_file", one_bit_off)
    with pytest.raises(CheckpointError, match=r"classifier\.bias reads back different from memory"):
        publish(tmp_path / "model", held(model), model, tiny_model)
    assert not (tmp_path / "model").exists()


def test_a_full_disk_is_told(model: Any, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_folder, "save_file", full_disk)
    with pytest.raises(CheckpointError, match=r"could not be written: .*No space left on device"):
        publish(tmp_path / "model", held(model), model, tiny_model)
