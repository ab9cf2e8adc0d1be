"""The options of `adapt` change a run alike under every engine, in every world, and go on from any checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import BertModel

from launcher.job.requests import EvaluationRequest
from launcher.job.schema import Model
from launcher.job.sections.data import Source
from launcher.run.folder import RunFolder
from launcher.run.results import Result
from launcher.worker.requests.selfcheck import make_material
from tests.adapt.runs import STEPS, lay_out, losses, train
from tests.worlds import Worlds

ADAMW = {"name": "adamw", "lr": 1e-2, "weight_decay": 0.1}
OPTIONS: dict[str, dict[str, Any]] = {
    "groups": {"layer_decay": 0.5, "lr_factors": {"classifier.*": 2.0}},
    "staged": {"probe": {"steps": 2, "lr": 0.02}, "unfreeze": 1, "layer_decay": 0.8},
    "pulled": {"l2_sp": 5.0, "average": {"name": "ema", "decay": 0.5}},
    "averaged": {"average": {"name": "swa", "start": 0.4, "every": 2}, "probe": 0.25},
    "mixed": {"probe": 3, "interpolate": 0.5},
    "chosen": {"interpolate": "auto", "l2_sp": 0.1, "average": {"name": "ema", "decay": 0.8}},
    "distilled": {"distill": {"weight": 0.7, "temperature": 3.0}},
    "free": {"interpolate": 0.7},
    "adapters": {
        "adapters": {"kind": "lora", "rank": 4},
        "probe": 2,
        "average": {"name": "ema", "decay": 0.5},
        "layer_decay": 0.5,
    },
}
TRAIN = {"free": {"optimizer": {"name": "schedule_free_adamw", "lr": 1e-2}, "schedule": {"name": "constant"}}}
STRATEGIES = [(1, "single"), (2, "ddp"), (2, "fsdp"), (2, "zero2"), (3, "zero3")]
NEW_HEAD = ("staged", "averaged", "mixed", "adapters")
"""Options that are tried from a model without a head."""
MIDDLE = STEPS // 2
"""Where a run goes on: after a probe, within a mean, at a stage's end."""
Runs = dict[tuple[int, str], RunFolder]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("options") / "material"
    make_material(folder)
    shutil.copy(folder / "train.csv", folder / "validation.csv")
    shutil.copytree(folder, folder / "headless")
    BertModel.from_pretrained(folder / "model").save_pretrained(folder / "headless" / "model")
    return folder


def run_of(folder: Path, material: Path, engine: str, world: int, option: str) -> RunFolder:
    settings = {"optimizer": ADAMW, **TRAIN.get(option, {})}
    material = material / "headless" if option in NEW_HEAD else material
    return lay_out(folder, material, engine, world, {"method": "finetune", **OPTIONS[option]}, **settings)


def ways_of(option: str) -> list[tuple[int, str]]:
    return [way for way in STRATEGIES if option != "free" or not way[1].startswith("zero")]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("staged", [(1, "single"), (2, "fsdp")]), id="staged-few"),
        *(pytest.param((name, ways_of(name)), id=name, marks=pytest.mark.slow) for name in OPTIONS),
    ],
)
def runs(request: pytest.FixtureRequest, material: Path, worlds: Worlds, tmp_path_factory: Any) -> Runs:
    """A run of several engines, in worlds of one to three."""
    option, ways = request.param
    folder, found = tmp_path_factory.mktemp(option), Runs()
    for world, engine in ways:
        run = found[world, engine] = run_of(folder / f"{engine}-{world}", material, engine, world, option)
        worlds.run(world, train, [(str(run.path), None)], timeout=240)
    return found


def option_of(runs: Runs) -> str:
    return next(iter(runs.values())).path.parent.name[:-1]


def judged(run: RunFolder) -> dict[str, float]:
    result = run.result()
    assert result is not None
    return Result.read(run.result_file).sets["validation"].after


def test_losses_and_the_result_are_those_of_one_process(runs: Runs) -> None:
    reference = runs[1, "single"]
    assert len(losses(reference)) == STEPS
    for way, run in runs.items():
        assert losses(run) == pytest.approx(losses(reference), rel=1e-4), way
        assert judged(run)["loss"] == pytest.approx(judged(reference)["loss"], rel=1e-3), way


def test_the_model_folder_holds_what_was_judged(runs: Runs, material: Path, worlds: Worlds) -> None:
    """Averages, mixtures and the like are published, not what was trained last."""
    for (world, engine), run in runs.items():
        (found, *_) = worlds.run(world, evaluated_again, str(run.model), str(material / "validation.csv"))
        assert found == pytest.approx(judged(run)["loss"], rel=1e-5), (world, engine)


def evaluated_again(rank: int, size: int, model: str, data: str) -> float:
    from launcher.worker.evaluation.evaluate import evaluate
    from launcher.worker.evaluation.inference import open_model, prepared_for
    from launcher.worker.rank.process import RankEnv
    from launcher.worker.rank.world import World

    request = EvaluationRequest(
        model=Model(pretrained=model), data=Source(source=data), cache=str(Path(data).parent / "again")
    )
    world = World.at(RankEnv(rank, rank, size), "cpu")
    opened = open_model(request, print)
    data = prepared_for(request, opened, world, print)
    return evaluate(opened.module, opened.task, data, world, batch_size=32).metrics["loss"]


def test_a_run_goes_on_in_the_middle_under_another_engine(
    runs: Runs, material: Path, worlds: Worlds, tmp_path: Path
) -> None:
    option = option_of(runs)
    ways = list(runs)
    for (before, first), (after, then) in zip(ways[1:], [*ways[2:], ways[0]], strict=True):
        went_on, folder = runs[before, first], tmp_path / f"{first}-{then}"
        shutil.copytree(went_on.checkpoints, folder / "checkpoints")
        moved = run_of(folder, material, then, after, option)
        worlds.run(after, train, [(str(moved.path), MIDDLE)], timeout=240)
        assert losses(moved) == pytest.approx(losses(went_on)[MIDDLE:], rel=1e-4), (first, then)
        assert judged(moved)["loss"] == pytest.approx(judged(went_on)["loss"], rel=1e-3), (first, then)


def test_a_start_that_has_changed_is_refused(material: Path, worlds: Worlds, tmp_path: Path) -> None:
    shutil.copytree(material, tmp_path / "material")
    run = run_of(tmp_path / "run", tmp_path / "material", "single", 1, "pulled")
    worlds.run(1, train, [(str(run.path), None)])
    file = tmp_path / "material" / "model" / "model.safetensors"
    weights = load_file(file)
    weights["bert.encoder.layer.1.output.dense.weight"] *= 1.5
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(AssertionError, match=r"no longer the model that the run of .*step-00000004 began with"):
        worlds.run(1, train, [(str(run.path), MIDDLE)])
