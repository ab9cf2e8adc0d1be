"""Where the target has no labels, an importance-weighted metric chooses, and the result says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from launcher.commands.selfcheck import engine_section
from launcher.run.events import EventTail, Note
from launcher.run.folder import RunFolder
from launcher.run.results import Result
from tests.verdicts import Laboratory
from tests.worlds import Worlds


@pytest.fixture(scope="module")
def laboratory(worlds: Worlds, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Laboratory:
    return Laboratory(worlds, tmp_path_factory.mktemp("laboratory"), tiny_model)


def choose(laboratory: Laboratory, name: str, world: int, start: str = "tiny", **settings: object) -> RunFolder:
    """Train on `here` for a target of `there`, whose labels nobody reads."""
    data = {
        "train": str(laboratory.folder / "here-train.csv"),
        "validation": {"here": str(laboratory.folder / "here-held.csv")},
        "target": str(laboratory.folder / "there-train.csv"),
        "cache": str(laboratory.folder / "cache"),
    }
    validation = {"selector": "importance-weighted", "metric": "accuracy", "every": 20}
    return laboratory.train(name, start, "here", world=world, steps=60, data=data, validation=validation, **settings)  # type: ignore[arg-type]


def notes(run: RunFolder) -> list[str]:
    return [event.text for event in EventTail(run.events_file).read() if isinstance(event, Note)]


FEW, MANY = [("single", 1), ("fsdp", 2)], [("single", 1), ("ddp", 2), ("zero3", 2)]


@pytest.mark.parametrize("ways", [FEW, pytest.param(MANY, marks=pytest.mark.slow)], ids=len)
def test_the_selector_is_named_and_the_same_in_any_world(ways: list[tuple[str, int]], laboratory: Laboratory) -> None:
    runs = [choose(laboratory, f"chosen-{way}", world, engine=engine_section(way)) for way, world in ways]
    results = [Result.read(run.result_file) for run in runs]
    for result in results:
        assert result.selector == "importance-weighted accuracy of here, an estimate for the unlabelled target"
        assert result.verdict is not None
        assert "The target has no labels" in result.verdict.reason
    weights = [np.load(run.path / "selection.npy") for run in runs]
    assert weights[0].shape == (240,)
    for other in weights[1:]:
        np.testing.assert_allclose(other, weights[0], rtol=1e-4)
    estimates = [text for text in notes(runs[0]) if "importance-weighted for the target" in text]
    assert len(estimates) == 3
    assert "effective sample size" in estimates[0]
    assert len({result.best_step for result in results}) == 1


def test_a_model_that_collapsed_is_not_chosen(laboratory: Laboratory) -> None:
    run = choose(laboratory, "collapsed", 1, optimizer={"name": "sgd", "lr": 1e-9})
    told = [text for text in notes(run) if text.startswith("collapsed on the target")]
    assert len(told) == 3
    assert "not selected" in told[0]
    result = Result.read(run.result_file)
    assert result.best_step is None
    assert result.verdict is not None
    assert result.verdict.decision == "keep the old model"
    assert result.verdict.reason.startswith("No checkpoint could be selected for the target, since each has collapsed")
    assert "was selected for it" not in result.verdict.reason


def test_it_chooses_how_far_to_go_back_too(laboratory: Laboratory) -> None:
    old = choose(laboratory, "old", 1)
    adapt = {"method": "finetune", "interpolate": "auto"}
    run = choose(laboratory, "between", 2, start=str(old.path), adapt=adapt, engine=engine_section("ddp"))
    told = notes(run)
    (found,) = [text for text in told if text.startswith("interpolated")]
    estimates = [text.split(": ")[1].split(" ±")[0] for text in told if "importance-weighted for the target" in text]
    assert len(estimates) == 3 + 11, "each evaluation, and each of the grid"
    grid = estimates[3:]
    assert f"accuracy {max(grid)}; {grid[0]} at the start" in found
