"""Adapters go with each method: the numbers of one process, equal ones when resumed, a verdict, a folder for `peft`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launcher.adapt.methods import METHODS
from launcher.job.sections.methods import SECTIONS
from launcher.models.weights.low_rank import DOWN
from launcher.run.events import EventTail, Note, Step
from launcher.run.folder import RunFolder
from launcher.run.results import Result
from tests.adapt.domains import SAVED, data_of, lay_out, make_material
from tests.adapt.runs import adapters, of_peft, train
from tests.worlds import Worlds

SETTINGS: dict[str, dict[str, Any]] = {"self-training": {"threshold": 0.35}, "dapt": {"max_steps": 4}}
NAMES = [name for name in METHODS if SECTIONS[name].why_no_adapters is None]
FAST = {"dapt": "ddp", "self-training": "fsdp", "dann": "ddp", "shot": "fsdp", "rehearsal": "ddp", "own": "fsdp"}
"""A method of each kind once; all of them under all engines are slow."""
WAYS = [
    pytest.param(name, engine, id=f"{name}-{engine}", marks=() if engine == FAST.get(name) else pytest.mark.slow)
    for name in [*NAMES, "rehearsal", "own"]
    for engine in ("ddp", "fsdp", "zero2")
]
OWN = """
from launcher.methods import Method


class Mine(Method):
    observes = ("features",)

    def batch_loss(self, found):
        return 0.1 * found.values["features"].square().mean()
"""


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_material(tmp_path_factory.mktemp("adapted-domains"))
    (folder / "mine.py").write_text(OWN)
    return folder


def made(folder: Path, material: Path, engine: str, world: int, method: str, **adapters: Any) -> RunFolder:
    """The run of a method, with a trained head where its learning is to show."""
    adapt = {"method": method, **SETTINGS.get(method, {})}
    changes = data_of(method, material)
    if method == "rehearsal":
        source = {"source": str(material / "shops.csv")}
        adapt = {"method": "finetune", "rehearsal": {"source": source, "share": 0.3}}
        changes = {"data": {"target": None}}
    if method == "own":
        adapt["code"] = f"{material / 'mine.py'}:Mine"
    validation = {"validation": {"held": str(material / "validation.csv")}, "allow_leakage": True}
    changes["data"] = {**changes.get("data", {}), **validation}
    adapt["adapters"] = {"kind": "lora", "rank": 4, **adapters}
    if adapters.get("quantised"):
        changes["launch"] = {"device": "auto"}  # a device of the CPU is refused for it
    return lay_out(folder, material, engine, world, adapt, micro=5, **changes, validation={"metric": "accuracy"})


def losses(run: RunFolder) -> dict[int, float]:
    return {event.step: event.loss for event in EventTail(run.events_file).read() if isinstance(event, Step)}


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("method", "engine"), WAYS)
def test_numbers_resuming_verdict_and_folder(
    method: str, engine: str, material: Path, worlds: Worlds, tmp_path: Path
) -> None:
    alone = made(tmp_path / "alone", material, "single", 1, method)
    worlds.run(1, train, [(str(alone.path), None)], timeout=240)
    whole, again = (made(tmp_path / name, material, engine, 2, method) for name in ("whole", "again"))
    worlds.run(2, train, [(str(whole.path), None)], timeout=240)
    told = losses(whole)
    assert told == pytest.approx(losses(alone), rel=1e-4, abs=1e-6)
    for kept in (whole.checkpoints, whole.outcomes("held", "before").parent):
        shutil.copytree(kept, again.path / kept.relative_to(whole.path), dirs_exist_ok=True)
    worlds.run(2, train, [(str(again.path), SAVED)], timeout=240)
    assert losses(again) == {step: loss for step, loss in told.items() if step > SAVED}
    expected, found = adapters(whole.model), adapters(again.model)
    assert all(np.array_equal(found[name], tensor) for name, tensor in expected.items())
    assert max(np.abs(tensor).max() for name, tensor in found.items() if "lora_B" in name) > 1e-4
    result = Result.read(whole.result_file)
    assert result.verdict is not None
    assert result.verdict == Result.read(again.result_file).verdict
    assert sum("lora_A" in name for name, _ in of_peft(whole.model).named_parameters()) == 12


def test_a_checkpoint_holds_what_learns_and_the_head_but_nothing_else_of_the_base(
    material: Path, worlds: Worlds, tmp_path: Path
) -> None:
    from torch.distributed.checkpoint.filesystem import FileSystemReader

    for method in ("shot", "dapt"):
        run = made(tmp_path / method, material, "fsdp", 2, method)
        worlds.run(2, train, [(str(run.path), None)], timeout=240)
        names = FileSystemReader(run.checkpoints / f"step-{SAVED:08d}").read_metadata().state_dict_metadata
        kept = {name.removeprefix("model/") for name in names if name.startswith("model/")}
        body = {name for name in kept if name.startswith("model.bert.")}
        assert all("lora_" in name for name in body)
        assert any(DOWN in name for name in body)
        assert {"model.classifier.weight", "model.classifier.bias"} <= kept
        assert not any("word_embeddings" in name or name.endswith("decoder.weight") for name in kept)


def test_the_head_stays_under_shot_and_is_published(material: Path, worlds: Worlds, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    run = made(tmp_path, material, "ddp", 2, "shot", kind="dora")
    worlds.run(2, train, [(str(run.path), None)], timeout=240)
    head = load_file(material / "trained" / "model.safetensors")["classifier.weight"]
    published = adapters(run.model)
    (name,) = (name for name in published if name.endswith("classifier.weight"))
    assert np.array_equal(published[name], head)
    learning = sum(tensor.size for name, tensor in published.items() if "lora_" in name)
    notes = [event.text for event in EventTail(run.events_file).read() if isinstance(event, Note)]
    assert any(note.startswith(f"adapters: {learning:,} of ") for note in notes)
    assert any(f"{learning:,} of " in reason for reason in run.plan().reasons)


@pytest.mark.parametrize("method", ["dapt", "mcc"])
def test_methods_go_with_weights_in_4_bits(method: str, material: Path, worlds: Worlds, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    run = made(tmp_path, material, "single", 1, method, quantised="4bit")
    worlds.run(1, train, [(str(run.path), None)], timeout=240)
    assert all(np.isfinite(loss) for loss in losses(run).values())
    assert max(np.abs(tensor).max() for name, tensor in adapters(run.model).items() if "lora_B" in name) > 1e-4
