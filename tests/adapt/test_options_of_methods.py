"""Options of `adapt`, a selector for the target, and methods that learn from it, together under every engine."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from launcher.run.events import EventTail, Note
from launcher.run.folder import RunFolder
from launcher.run.results import Result
from tests.adapt.domains import SAVED, data_of, lay_out, make_material
from tests.adapt.runs import losses, train
from tests.thinning import thinned
from tests.worlds import Worlds

ADAMW = {"name": "adamw", "lr": 1e-2, "weight_decay": 0.1}
OPTIONS: dict[str, dict[str, Any]] = {
    "dann": {
        "layer_decay": 0.5,
        "lr_factors": {"classifier.*": 2.0},
        "l2_sp": 5.0,
        "average": {"name": "ema", "decay": 0.5},
    },
    "shot": {"interpolate": 0.5, "average": {"name": "swa", "start": 0.4, "every": 2}},
}
STRATEGIES = [(1, "single"), (2, "ddp"), (2, "fsdp"), (2, "zero3")]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_material(tmp_path_factory.mktemp("domains"))


def made(
    folder: Path, material: Path, engine: str, world: int, method: str, options: dict[str, Any], **changes: Any
) -> RunFolder:
    values = data_of(method, material)
    values["data"] = {**values.get("data", {}), "validation": str(material / "validation.csv"), **changes}
    judged = {"every": 4, "metric": "accuracy", **({"selector": "importance-weighted"} if changes else {})}
    settings = {"train": {"optimizer": ADAMW}, "validation": judged, **values}
    return lay_out(folder, material, engine, world, {"method": method, **options}, **settings)


def loss_after(run: RunFolder) -> float:
    return Result.read(run.result_file).sets["validation"].after["loss"]


@pytest.mark.parametrize("method", thinned(OPTIONS, ["dann"]))
def test_options_change_a_method_alike_under_every_engine(
    method: str, material: Path, worlds: Worlds, tmp_path: Path
) -> None:
    plain = made(tmp_path / "plain", material, "single", 1, method, {})
    worlds.run(1, train, [(str(plain.path), None)], timeout=240)
    runs = {}
    for world, engine in STRATEGIES:
        run = runs[engine] = made(tmp_path / engine, material, engine, world, method, OPTIONS[method])
        worlds.run(world, train, [(str(run.path), None)], timeout=240)
        assert losses(run) == pytest.approx(losses(runs["single"]), rel=1e-3), engine
        assert loss_after(run) == pytest.approx(loss_after(runs["single"]), rel=1e-3), engine
    assert loss_after(plain) != pytest.approx(loss_after(runs["single"]), rel=1e-3)
    again = made(tmp_path / "again", material, "fsdp", 2, method, OPTIONS[method])
    shutil.copytree(runs["zero3"].checkpoints, again.checkpoints, dirs_exist_ok=True)
    worlds.run(2, train, [(str(again.path), SAVED)], timeout=240)
    assert losses(again) == pytest.approx(losses(runs["single"])[SAVED:], rel=1e-3)
    assert loss_after(again) == pytest.approx(loss_after(runs["single"]), rel=1e-3)


@pytest.mark.parametrize("method", ["finetune", "coral"])
def test_a_target_may_choose_the_checkpoint_whether_or_not_it_is_learned_from(
    method: str, material: Path, worlds: Worlds, tmp_path: Path
) -> None:
    sources = {name: str(material / f"{name}.csv") for name in ("films", "shops")}
    told = []
    for world, engine in STRATEGIES[:2]:
        run = made(tmp_path / engine, material, engine, world, method, {}, train=sources)
        worlds.run(world, train, [(str(run.path), None)], timeout=240)
        events = list(EventTail(run.events_file).read())
        told.append([e.text for e in events if isinstance(e, Note) and "importance-weighted for the target" in e.text])
        result = Result.read(run.result_file)
        assert (result.best_step is None) == any("not selected" in e.text for e in events if isinstance(e, Note))
        assert (result.selector is None) == (result.best_step is None), "what is collapsed each time is not selected"
    assert len(told[0]) == 2
    assert [text[:40] for text in told[0]] == [text[:40] for text in told[1]]
