"""A sharded model is read part by part, and no rank ever holds the whole of it."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from launcher.adapt.adapters.adapters import AdapterContext
from launcher.adapt.adapters.lora import add_lora
from launcher.job.pretrained import find_pretrained
from launcher.job.schema import Model
from launcher.job.sections.adapters import LowRank
from launcher.job.sections.training import Optimizer
from launcher.models.weights import loading
from launcher.models.weights.stored import FileTensor, Placeholders
from tests.engines.test_engines import engine_of
from tests.tiny import tiny_model_folder
from tests.worlds import Worlds

CLASSIFIER = "AutoModelForSequenceClassification"
SHARDING = ("fsdp", "zero3")


def load(folder: str, *, in_parts: bool, labels: tuple[str, ...] = ("a", "b", "c")) -> loading.Loaded:
    spec = Model(pretrained=folder)
    place = find_pretrained(spec)
    torch.manual_seed(5)
    return loading.load_model(place, spec, CLASSIFIER, labels, loading.load_config(place, spec), in_parts=in_parts)


@pytest.fixture(params=["one file", "several files", "bf16"])
def folder(request: pytest.FixtureRequest, tiny_model: Path, tmp_path: Path) -> Path:
    from transformers import AutoModel

    shutil.copytree(tiny_model, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").unlink()
    model = AutoModel.from_pretrained(tiny_model)
    if request.param == "bf16":
        model = model.to(torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size="20KB" if request.param == "several files" else "1GB")
    return tmp_path


def test_the_model_lies_in_its_files_but_for_the_new_head(folder: Path) -> None:
    loaded = load(str(folder), in_parts=True)
    whole = load(str(folder), in_parts=False)
    assert (loaded.new, loaded.left_out) == (whole.new, whole.left_out)
    expected = dict(whole.model.named_parameters())
    for name, parameter in loaded.model.named_parameters():
        if name in loaded.new:
            assert torch.equal(parameter, expected[name]), "the same start as when loaded whole"
        else:
            assert parameter.is_meta
            assert torch.equal(loaded.stored[parameter].whole(), expected[name])
            count = parameter.numel()
            for start, stop in ((0, count), (count // 3, count // 2), (count - 1, count), (1, 1)):
                part = loaded.stored[parameter].elements(start, stop)
                assert torch.equal(part, expected[name].flatten()[start:stop])
    for name, buffer in loaded.model.named_buffers():
        assert torch.equal(buffer, dict(whole.model.named_buffers())[name])


def spread(rank: int, size: int, engine_name: str, folder: str, in_parts: bool) -> dict[str, list[float]]:
    engine = engine_of(engine_name)
    loaded = load(folder, in_parts=in_parts)
    assert bool(loaded.stored) == in_parts
    engine.prepare(loaded.model, Optimizer(), loaded.stored)
    return {name: tensor.flatten().tolist() for name, tensor in engine.full_tensors()}


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("engine", SHARDING)
def test_ranks_that_read_their_parts_hold_the_model(engine: str, size: int, folder: Path, worlds: Worlds) -> None:
    whole = load(str(folder), in_parts=False).model.state_dict()
    for found in worlds.run(size, spread, engine, str(folder), True):
        for name, tensor in whole.items():
            assert found[name] == tensor.flatten().tolist(), name


def test_tied_weights_stay_one(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self, stored: torch.Tensor) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(4, 3), nn.Linear(3, 4, bias=False)
            self.embedding.weight = nn.Parameter(stored)
            self.head.weight = self.embedding.weight

    save_file({"embedding.weight": torch.randn(4, 3)}, tmp_path / "model.safetensors")
    holders = Placeholders([tmp_path / "model.safetensors"])
    model = Tied(holders.tensors["embedding.weight"])
    stored = holders.found_in(model, set())
    assert stored is not None
    assert len(stored) == 1
    assert model.head.weight is model.embedding.weight
    assert model.head.weight.is_meta


def test_weights_made_by_computation_are_not_read_in_part(tmp_path: Path) -> None:
    save_file({"a": torch.randn(2, 3), "b": torch.randn(2, 3)}, tmp_path / "model.safetensors")
    holders = Placeholders([tmp_path / "model.safetensors"])
    model = nn.Linear(3, 4, bias=False)
    model.weight = nn.Parameter(torch.cat([holders.tensors["a"], holders.tensors["b"]]))
    assert holders.found_in(model, set()) is None


def test_a_scalar_and_whole_numbers_are_read(tmp_path: Path) -> None:
    save_file({"scale": torch.tensor(2.5), "count": torch.tensor([7, 8])}, tmp_path / "model.safetensors")
    assert FileTensor(tmp_path / "model.safetensors", "scale", torch.Size(())).elements(0, 1).tolist() == [2.5]
    assert FileTensor(tmp_path / "model.safetensors", "count", torch.Size((2,))).elements(1, 2).tolist() == [8]


@pytest.fixture(scope="module")
def large_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 1.1 GiB of weights at random."""
    folder = tiny_model_folder(tmp_path_factory.mktemp("large") / "model", layers=2, hidden=32)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16}
    (folder / "config.json").write_text(json.dumps(config))
    from transformers import AutoConfig, AutoModel

    with torch.device("meta"):
        shapes = AutoModel.from_config(AutoConfig.from_pretrained(folder)).state_dict()
    draw = torch.Generator().manual_seed(0)
    weights = {name: torch.empty(tensor.shape).normal_(0, 0.02, generator=draw) for name, tensor in shapes.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def peak_of_loading(
    rank: int, size: int, engine_name: str, folder: str, adapt: dict[str, Any] | None
) -> tuple[int, int]:
    """Bytes that this process took at most while it loaded, files mapped into memory not counted; bytes it holds.

    Of DeepSpeed until its own start begins, which takes a few slices more for a moment.
    """
    import deepspeed

    engine = engine_of(engine_name)
    load_engine_code(engine_name)
    before, taken, start = anonymous_memory(), list[int](), deepspeed.initialize

    def noted(**arguments: Any) -> Any:
        taken.append(max(reached) - before)
        return start(**arguments)

    deepspeed.initialize = noted
    with peak() as reached:
        loaded = load(folder, in_parts=True)
        if adapt is not None:
            setting = AdapterContext(find_pretrained(Model(pretrained=folder)), None, CLASSIFIER, seed=0)
            add_lora(LowRank.model_validate(adapt), loaded, setting)
        engine.prepare(loaded.model, Optimizer(name="sgd"), loaded.stored)
    deepspeed.initialize = start
    held = engine.state()["model"].values()
    local = [h.local if hasattr(h, "local") else h.to_local() if hasattr(h, "to_local") else h for h in held]
    return (taken or [max(reached) - before])[0], sum(tensor.nbytes for tensor in local)


def load_engine_code(name: str) -> None:
    """Import what an engine imports, with a model of a few numbers, so that code is not counted as weights."""
    engine_of(name).prepare(nn.Linear(2, 2), Optimizer(name="sgd"), {})


@contextmanager
def peak() -> Iterator[list[int]]:
    reached, done = [anonymous_memory()], threading.Event()

    def watch() -> None:
        while not done.is_set():
            reached.append(anonymous_memory())
            time.sleep(0.002)

    thread = threading.Thread(target=watch)
    thread.start()
    yield reached
    done.set()
    thread.join()


def anonymous_memory() -> int:
    fields: dict[str, Any] = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("adapt", [None, {"kind": "lora"}, {"kind": "dora"}], ids=str)
@pytest.mark.parametrize("engine", SHARDING)
def test_no_rank_holds_a_large_model_while_it_is_loaded(
    engine: str, adapt: dict[str, Any] | None, large_model: Path, worlds: Worlds
) -> None:
    whole = sum(tensor.nbytes for tensor in load_file(large_model / "model.safetensors").values())
    assert whole > 2**30
    for size in (2, 4):
        for taken, held in worlds.run(size, peak_of_loading, engine, str(large_model), adapt, timeout=400):
            share = whole / size
            print(f"{engine} of {size}: share {share / 2**20:.0f} MiB, peak {taken / 2**20:.0f} MiB")
            assert held == pytest.approx(share, rel=0.02)
            assert taken < 1.05 * share + 100 * 2**20, "the slices, one tensor that is being read, and small change"
