"""Each method on film reviews and tweets: two processes, stopped and gone on in the middle, judged at the end."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launcher.adapt.methods import METHODS
from launcher.commands.demo_data import Sample, balanced, film_reviews, tweets
from launcher.run.events import EventTail, Note, Step
from launcher.run.folder import RunFolder
from launcher.run.results import Result
from tests.adapt.domains import STEPS, lay_out, weights
from tests.adapt.runs import train
from tests.thinning import thinned
from tests.tiny import tiny_model_folder
from tests.worlds import Worlds

LABELLED, UNLABELLED, HELD_OUT = 160, 120, 60
FEW = 32
"""Labelled samples of two steps, after which self-training labels the target: before the step that is gone on from."""
ENGINES = ["ddp", *(pytest.param(name, marks=pytest.mark.slow) for name in ("fsdp", "zero2"))]
SETTINGS: dict[str, dict[str, Any]] = {"self-training": {"threshold": 0.5}, "dapt": {"max_steps": 4}}
SAVED = 3


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory, worlds: Worlds) -> Path:
    """Texts of both domains, a small model that knows their words, and one trained on film reviews."""
    folder = tmp_path_factory.mktemp("real")
    films = list(islice(balanced(film_reviews()), LABELLED + HELD_OUT))
    target = list(islice(balanced(tweets()), UNLABELLED + HELD_OUT))
    parts = {
        "films": films[:LABELLED],
        "few-films": films[:FEW],
        "some-films": films[: LABELLED // 2],
        "other-films": films[LABELLED // 2 : LABELLED],
        "films-held": films[LABELLED:],
        "target": target[:UNLABELLED],
        "target-held": target[UNLABELLED:],
    }
    for name, samples in parts.items():
        write(folder / f"{name}.csv", samples)
    common = Counter(word for text, _ in [*films, *target] for word in text.split() if word.isalpha())
    tiny_model_folder(folder / "model", words=[word for word, _ in common.most_common(600)])
    source = lay_out(folder / "source", folder, "ddp", 2, {"method": "finetune"}, data={"target": None})
    worlds.run(2, train, [(str(source.path), None)], timeout=240)
    source.model.rename(folder / "trained")
    return folder


def write(file: Path, samples: Sequence[Sample]) -> None:
    with file.open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([("text", "label"), *samples])


def laid_out(folder: Path, material: Path, engine: str, method: str) -> RunFolder:
    changes: dict[str, Any] = {"model": {"dropout": 0.1}}
    data: dict[str, Any] = {
        "target": {"source": str(material / "target.csv"), "text": "text"},
        "validation": {"tweets": str(material / "target-held.csv"), "films": str(material / "films-held.csv")},
    }
    if method in ("shot", "tent"):
        data["train"], changes["model"] = None, {"pretrained": str(material / "trained"), "dropout": 0.1}
    if method == "self-training":
        data["train"] = str(material / "few-films.csv")
    if method == "group-dro":
        sets = {name: str(material / f"{name}.csv") for name in ("some-films", "other-films")}
        data.update(train=sets, target=None)
    adapt = {"method": method, **SETTINGS.get(method, {})}
    rest = {"validation": {"metric": "accuracy"}, "verdict": {"must_hold": ["films"]}}
    return lay_out(folder, material, engine, 2, adapt, micro=5, data=data, **changes, **rest)


def losses(run: RunFolder) -> Iterator[tuple[int, float]]:
    return ((event.step, event.loss) for event in EventTail(run.events_file).read() if isinstance(event, Step))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("method", thinned(METHODS, ["self-training", "shot"]))
def test_it_goes_on_in_the_middle_and_ends_in_a_verdict(
    method: str, engine: str, material: Path, worlds: Worlds, tmp_path: Path
) -> None:
    whole = laid_out(tmp_path / "whole", material, engine, method)
    worlds.run(2, train, [(str(whole.path), None)], timeout=240)
    told = dict(losses(whole))
    assert len(told) == STEPS + SETTINGS.get(method, {}).get("max_steps", 0)
    noted = [event.text for event in EventTail(whole.events_file).read() if isinstance(event, Note)]
    assert any("of 120 target samples" in text for text in noted) is (method in ("self-training", "shot"))
    again = laid_out(tmp_path / "again", material, engine, method)
    for kept in (
        whole.checkpoints,
        whole.outcomes("tweets", "before").parent,
        whole.outcomes("films", "before").parent,
    ):
        shutil.copytree(kept, again.path / kept.relative_to(whole.path), dirs_exist_ok=True)
    worlds.run(2, train, [(str(again.path), SAVED)], timeout=240)
    assert dict(losses(again)) == {step: loss for step, loss in told.items() if step > SAVED}
    assert all(np.array_equal(tensor, weights(again)[name]) for name, tensor in weights(whole).items())
    first, second = (Result.read(run.result_file) for run in (whole, again))
    assert first.verdict is not None
    assert first.verdict.decision in ("adopt", "keep the old model", "inconclusive")
    assert {comparison.set for comparison in first.verdict.comparisons} == {"tweets", "films"}
    assert first.verdict == second.verdict
    assert first.sets["tweets"].samples == HELD_OUT
