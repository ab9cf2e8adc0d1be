"""The options of `adapt` change a run alike under every engine, in every world, and go on from any checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from launcher.run.folder import RunFolder
from launcher.worker.selfcheck import make_material
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
}
WAYS = {1: ("single",), 2: ("ddp", "fsdp", "zero1", "zero2"), 3: ("zero3",)}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("options") / "material"
    make_material(folder)
    shutil.copy(folder / "train.csv", folder / "validation.csv")
    return folder


def run_of(folder: Path, material: Path, engine: str, world: int, option: str, **train: Any) -> RunFolder:
    adapt = {"method": "finetune", **OPTIONS[option]}
    return lay_out(folder, material, engine, world, adapt, **{"optimizer": ADAMW, **train})


def weights_of(run: RunFolder) -> dict[str, np.ndarray[Any, Any]]:
    return load_file(run.model / "model.safetensors")


@pytest.mark.parametrize("option", OPTIONS)
def test_engines_and_worlds_agree(option: str, material: Path, worlds: Worlds, tmp_path: Path) -> None:
    found: dict[tuple[int, str], RunFolder] = {}
    for world, engines in WAYS.items():
        ours = {
            (world, engine): run_of(tmp_path / f"{engine}-{world}", material, engine, world, option)
            for engine in engines
        }
        worlds.run(world, train, [(str(run.path), None) for run in ours.values()], timeout=240)
        found |= ours
    reference = losses(found[1, "single"])
    assert len(reference) == STEPS
    for way, run in found.items():
        assert losses(run) == pytest.approx(reference, rel=1e-4), way
