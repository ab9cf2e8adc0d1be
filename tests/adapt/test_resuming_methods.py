"""Every method goes on in the middle with equal numbers, and leaves its own parts out of the model folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.distributed.checkpoint.filesystem import FileSystemReader

from launcher.adapt.methods import METHODS
from launcher.checkpoint.reading import read_progress
from launcher.run.events import EventTail, Note, Step
from launcher.run.folder import RunFolder
from tests.adapt.domains import STEPS, data_of, lay_out, make_material, weights
from tests.adapt.runs import train
from tests.thinning import thinned
from tests.worlds import Worlds

SETTINGS: dict[str, dict[str, Any]] = {
    "self-training": {"threshold": 0.35},
    "dapt": {"max_steps": 4},
}
ALIKE = {"model": {"dropout": 0.1}, "train": {"optimizer": {"name": "adamw", "lr": 1e-3}}}
"""Dropout too is drawn alike, in both passes and when a run goes on."""


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_material(tmp_path_factory.mktemp("domains"))


def losses_of(run: RunFolder) -> dict[int, float]:
    return {e.step: e.loss for e in EventTail(run.events_file).read() if isinstance(e, Step)}


def made(folder: Path, material: Path, engine: str, method: str, **changes: Any) -> RunFolder:
    data = data_of(method, material)
    model = {**ALIKE["model"], **data.pop("model", {})}
    adapt = {"method": method, **SETTINGS.get(method, {})}
    merged = {**data, "model": model, "train": ALIKE["train"], **changes}
    return lay_out(folder, material, engine, 2, adapt, micro=5, **merged)


@pytest.mark.parametrize("method", thinned(METHODS, ["mmd", "cdan", "udalm", "tent", "group-dro", "mcc"]))
def test_a_method_goes_on_in_the_middle_with_the_same_bits(
    method: str, material: Path, worlds: Worlds, tmp_path: Path
) -> None:
    first = made(tmp_path / "first", material, "ddp", method)
    worlds.run(2, train, [(str(first.path), None)], timeout=240)
    told, final = losses_of(first), weights(first)
    assert len(told) == STEPS + (4 if method == "dapt" else 0)
    saved = [3, 6]  # of DAPT one in each phase; of self-training the second in an epoch that has labels
    for step in saved:
        again = made(tmp_path / f"from-{step}", material, "ddp", method)
        shutil.copytree(first.checkpoints, again.checkpoints, dirs_exist_ok=True)
        worlds.run(2, train, [(str(again.path), step)], timeout=240)
        assert losses_of(again) == {number: loss for number, loss in told.items() if number > step}
        found = weights(again)
        assert all(np.array_equal(found[name], tensor) for name, tensor in final.items())
    if method in ("self-training", "shot", "group-dro", "tent"):
        assert read_progress(first.checkpoints / "step-00000006")["method"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("method", METHODS)
def test_a_method_goes_on_under_another_engine(method: str, material: Path, worlds: Worlds, tmp_path: Path) -> None:
    no_dropout: dict[str, Any] = {"model": {**data_of(method, material).get("model", {}), "dropout": 0.0}}
    first = made(tmp_path / "first", material, "ddp", method, **no_dropout)
    worlds.run(2, train, [(str(first.path), None)], timeout=240)
    told = losses_of(first)
    for engine in ("fsdp", "zero2", "zero3"):
        again = made(tmp_path / engine, material, engine, method, **no_dropout)
        shutil.copytree(first.checkpoints, again.checkpoints, dirs_exist_ok=True)
        worlds.run(2, train, [(str(again.path), 3)], timeout=240)
        for number, loss in losses_of(again).items():
            assert loss == pytest.approx(told[number], rel=1e-3, abs=1e-4), (engine, number)


def test_a_discriminator_is_in_the_checkpoint_and_not_in_the_model(
    material: Path, worlds: Worlds, tmp_path: Path
) -> None:
    run = made(tmp_path, material, "fsdp", "dann")
    worlds.run(2, train, [(str(run.path), None)], timeout=240)
    saved = FileSystemReader(run.checkpoints / "step-00000003").read_metadata().state_dict_metadata
    assert "model/parts.layers.0.weight" in saved
    assert any(name.startswith("optimizer/exp_avg/parts.") for name in saved)
    assert not any("inner" in name for name in saved), "each tensor once, under the model's own name"
    assert {name.partition(".")[0] for name in weights(run)} == {"bert", "classifier"}


def test_rehearsal_draws_its_share_and_is_no_epoch_of_its_own(material: Path, worlds: Worlds, tmp_path: Path) -> None:
    source = {"source": str(material / "shops.csv")}
    data = {"data": {"target": None}, "train": {"max_steps": None, "epochs": 1}}
    runs = []
    for world, engine in ((1, "single"), (2, "ddp")):
        adapt = {"method": "finetune", "rehearsal": {"source": source, "share": 0.3}}
        run = lay_out(tmp_path / engine, material, engine, world, adapt, **data)
        worlds.run(world, train, [(str(run.path), None)], timeout=240)
        runs.append(losses_of(run))
    assert len(runs[0]) == -(-100 // 16), "70 samples are 70 % of an epoch's 100"
    assert runs[0] == pytest.approx(runs[1], rel=1e-5)


def test_training_ends_where_the_model_has_collapsed(material: Path, worlds: Worlds, tmp_path: Path) -> None:
    fast = {"epochs": 20, "max_steps": 60, "optimizer": {"name": "adamw", "lr": 0.1}}
    adapt = {"method": "tent", "diversity": 0.0, "lr_factor": 1.0}  # as its paper has it
    data = data_of("tent", material)
    model = {**ALIKE["model"], **data.pop("model", {})}
    run = lay_out(
        tmp_path, material, "ddp", 2, adapt, micro=5, **data, model=model, train=fast, checkpoint={"every_steps": 30}
    )
    worlds.run(2, train, [(str(run.path), None)], timeout=240)
    notes = [event.text for event in EventTail(run.events_file).read() if isinstance(event, Note)]
    assert any("the model has collapsed" in text for text in notes)
    assert 10 <= len(losses_of(run)) < 60
