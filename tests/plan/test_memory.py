"""The memory that is planned is the memory that is held."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launcher.job.pretrained import find_pretrained
from launcher.job.schema import Model, Optimizer
from launcher.plan.hardware import Gpu, Hardware
from launcher.plan.making import make_plan
from launcher.plan.memory import StateMemory, count_parameters, state_memory
from tests.plan.test_plan import job
from tests.tiny import tiny_model_folder
from tests.worlds import Worlds

OPTIMIZERS: list[dict[str, Any]] = [{"name": "adamw"}, {"name": "sgd", "momentum": 0.9}, {"name": "sgd"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("memory") / "model", hidden=96)


def measured(rank: int, size: int, folder: str, engine_name: str, optimizer: dict[str, Any]) -> tuple[int, int, int]:
    """Bytes that this rank holds of weights, gradients and optimizer."""
    import torch
    from torch.distributed.tensor import DTensor
    from transformers import AutoModelForSequenceClassification

    from launcher.engines import make_engine
    from launcher.engines.base import EngineSettings
    from launcher.job.schema import Optimizer
    from tests.worker.test_evaluating import tiny_task

    task, _ = tiny_task(folder)
    module = task.build(AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3))
    engine = make_engine(engine_name, EngineSettings(torch.device("cpu"), precision="fp32", clip_norm=None))
    engine.prepare(module, Optimizer.model_validate(optimizer), {})
    batch = task.collate([{"input_ids": [5, 6], "length": 2, "label": 0}], [0])
    engine.accumulate(batch, 1.0, last=True)

    def held(tensors: Any) -> int:
        return sum((t.to_local() if isinstance(t, DTensor) else t).nbytes for t in tensors)

    gradients = held(p.grad for p in engine.module.parameters() if p.grad is not None)
    engine.step(1e-3)
    moments = held(t for slots in engine.state()["optimizer"].values() for t in slots.values() if t is not None)
    return held(engine.module.parameters()), gradients, moments


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["adamw", "momentum", "sgd"])
@pytest.mark.parametrize(("engine", "size"), [("single", 1), ("ddp", 2), ("fsdp", 2), ("fsdp", 3)])
def test_the_plan_is_within_a_hundredth_of_what_is_held(
    engine: str, size: int, optimizer: dict[str, Any], model: Path, worlds: Worlds
) -> None:
    parameters = count_parameters(find_pretrained(Model(pretrained=str(model))))
    assert parameters is not None
    planned = state_memory(parameters, Optimizer.model_validate(optimizer), engine, size)
    for weights, gradients, moments in worlds.run(size, measured, str(model), engine, optimizer):
        assert planned.weights == pytest.approx(weights, rel=0.01)
        assert planned.gradients == pytest.approx(gradients, rel=0.01)
        assert planned.optimizer == pytest.approx(moments, rel=0.01)


def test_minilm_is_counted_from_its_header() -> None:
    from transformers import AutoModel

    place = find_pretrained(Model(pretrained="minilm"))
    loaded = AutoModel.from_pretrained(place.location)
    assert count_parameters(place) == sum(parameter.numel() for parameter in loaded.parameters())


@pytest.mark.parametrize("content", [b"", b"\x10\0\0\0\0\0\0\0{", b"\xff" * 20])
def test_a_broken_file_is_left_for_loading_to_name(content: bytes, tmp_path: Path) -> None:
    made, file = job(tmp_path)
    (tmp_path / "tiny" / "model.safetensors").write_bytes(content)
    assert make_plan(made, file, Hardware((), cores=2, memory=2**33)).state is None


def test_several_files_are_counted_together(model: Path, tmp_path: Path) -> None:
    from transformers import AutoModel

    whole = AutoModel.from_pretrained(model)
    whole.save_pretrained(tmp_path / "parts", max_shard_size="200KB")
    model_folder = tiny_model_folder(tmp_path / "tokenizer")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    spec = Model(pretrained=str(tmp_path / "parts"), tokenizer=str(model_folder))
    assert count_parameters(find_pretrained(spec)) == sum(p.numel() for p in whole.parameters())


def test_auto_shards_what_does_not_fit(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, file = job(tmp_path, model={"pretrained": str(model)}, train={"max_length": 32})
    needed = make_plan(made, file, Hardware((), cores=2, memory=2**33)).state
    assert needed is not None
    small = Gpu("small", int(needed.total * 1.1), 9.0)
    large = Gpu("large", int(needed.total * 1.5), 9.0)
    sharded = make_plan(made, file, Hardware((small, small), 8, 2**33))
    assert sharded.engine == "fsdp"
    assert any(reason.startswith("fsdp: ddp would take") for reason in sharded.reasons)
    assert sharded.state is not None
    assert sharded.state.total == pytest.approx(needed.total / 2, rel=1e-3)
    assert make_plan(made, file, Hardware((large, large), 8, 2**33)).engine == "ddp"


def test_sizes_are_told_in_words() -> None:
    text = str(StateMemory(87 * 2**20, 87 * 2**20, 174 * 2**20))
    assert text == "348 MiB a process (weights 87 MiB, gradients 87 MiB, optimizer 174 MiB) and activations"
