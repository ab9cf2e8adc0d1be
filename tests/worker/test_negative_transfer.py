"""What hurts is not adopted, what helps is, and what changes nothing is adopted by chance at most."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launcher.measure.compare.verdict import Verdict
from launcher.run.folder import RunFolder
from launcher.run.results import Result
from tests.domains import write_domain
from tests.verdicts import Laboratory
from tests.worlds import Worlds

REPETITIONS = 20


@pytest.fixture(scope="module")
def laboratory(worlds: Worlds, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Laboratory:
    """Old models: a good one on `here`, one that has seen little of it, and one that was told much nonsense."""
    made = Laboratory(worlds, tmp_path_factory.mktemp("laboratory"), tiny_model, held=300)
    write_domain(made.folder / "little.csv", "here", 96, seed=3, clear=0.75)
    write_domain(made.folder / "noisy.csv", "here", 320, seed=4, wrong=0.7)
    write_domain(made.folder / "shuffled.csv", "here", 320, seed=5, wrong=1.0)
    only = {"here": "here-held.csv"}
    made.train("good", "tiny", "here", sets=only)
    made.train("little", "tiny", "little.csv", sets=only, steps=60)
    made.train("noisy", "tiny", "noisy.csv", sets=only)
    return made


def verdict_of(run: RunFolder) -> Verdict:
    found = Result.read(run.result_file).verdict
    assert found is not None
    print(f"{run.path.name}: {found}")
    return found


HURT: dict[str, tuple[str, dict[str, Any]]] = {
    "shuffled labels": ("shuffled.csv", {}),
    "a rate that destroys": ("here", {"optimizer": {"lr": 0.5}}),
    "a source far from the target": ("far", {}),
}
HELP: dict[str, tuple[str, str, dict[str, str]]] = {
    "labels of the target": ("good", "there", {"there": "there-held.csv"}),
    "more of the same": ("little", "here", {"here": "here-held.csv"}),
    "truth after nonsense": ("noisy", "here", {"here": "here-held.csv"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HURT)
def test_what_hurts_is_not_adopted(name: str, laboratory: Laboratory) -> None:
    data, settings = HURT[name]
    place = str(laboratory.run("good").path)
    run = laboratory.train(name.replace(" ", "-"), place, data, sets={"here": "here-held.csv"}, **settings)
    assert verdict_of(run).decision == "keep the old model"


@pytest.mark.slow
@pytest.mark.parametrize("name", HELP)
def test_what_helps_is_adopted(name: str, laboratory: Laboratory) -> None:
    old, data, sets = HELP[name]
    run = laboratory.train(name.replace(" ", "-"), str(laboratory.run(old).path), data, sets=sets)
    assert verdict_of(run).decision == "adopt"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_training_again_with_another_seed_is_adopted_at_most_once_in_twenty(laboratory: Laboratory) -> None:
    """Each run takes the good model through the same texts in another order, and would take the place of the last."""
    place, decisions = str(laboratory.run("good").path), list[str]()
    for number in range(REPETITIONS + 1):
        before = str(laboratory.run(f"again-{number - 1}").path) if number else place
        run = laboratory.train(
            f"again-{number}",
            place,
            "here",
            sets={"here": "here-held.csv"},
            steps=30,
            seed=number,
            verdict={"baseline": before},
            optimizer={"lr": 1e-3},
        )
        decisions.append(verdict_of(run).decision)
    assert decisions[1:].count("adopt") <= 1, decisions
