"""`adaptrun gap` on real texts with a real model: planted faults are found, and where there are none it says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from launcher.commands import gap
from launcher.commands.demo_data import tweets
from launcher.errors import RequestError
from launcher.job.schema import Job
from launcher.job.sections.tasks import find_family
from launcher.measure.quality import on_features
from launcher.measure.quality.advice import findings
from launcher.measure.quality.label_sets import label_format
from launcher.measure.quality.on_features import measure_features
from launcher.measure.quality.rendering import as_json
from launcher.measure.quality.report import Report, look_at
from launcher.measure.quality.samples import read_sets
from launcher.measure.shift.a_distance import proxy_a_distance
from launcher.measure.shift.mmd import mmd_test
from tests.cli import adaptrun
from tests.families import JOBS, SAMPLES
from tests.measure.planted import clean, other_domain, plant, precision_and_recall, write
from tests.tiny import write_texts
from tests.worker.test_features import extract
from tests.worlds import Worlds


def measured(worlds: Worlds, folder: Path, **data: Any) -> Report:
    """All that `adaptrun gap` would say of texts, with features of MiniLM from two ranks."""
    values = {
        "name": "x",
        "model": {"pretrained": "minilm"},
        "task": "text-classification",
        "data": {"cache": str(folder / "cache"), **data},
        "train": {"max_length": 48},
    }
    job = Job.model_validate(values)
    family = find_family(job.task)
    sets = read_sets(job, family, label_format(job, family))
    report = look_at(sets, has_classes=True, allowed=False)
    files = worlds.run(2, extract, str(folder), values)[0]
    features = {name: np.load(file) for name, file in files.items()}
    measure_features(report, sets, features, family, seed=0, errors=True)
    return report


def test_planted_faults_and_a_shift_are_found(worlds: Worlds, tmp_path: Path) -> None:
    made = plant(700, 150)
    report = measured(
        worlds,
        tmp_path,
        train=str(write(tmp_path / "train.csv", made.train)),
        validation={"held": str(write(tmp_path / "held.csv", made.validation))},
        target=str(write(tmp_path / "far.csv", other_domain(200))),
    )
    [again, *_] = report.within
    leaks = next(one for one in report.across if one.leaks)
    near = {one.number for one in report.near if one.set == one.other_set == "train"}
    repeats = {here for here, _ in again.pairs}
    assert precision_and_recall("duplicates", repeats, made.duplicates | made.contradicting) == (1, 1)
    assert precision_and_recall("leaks", {here for here, _ in leaks.pairs}, made.leaks) == (1, 1)
    assert precision_and_recall("near duplicates", near, made.near)[1] >= 0.9

    assert report.label_errors is not None
    wrong = made.wrong | made.contradicting
    share = len(wrong) / len(made.train)
    precision, recall = precision_and_recall("wrong labels", {one.number for one in report.label_errors}, wrong)
    assert recall >= 0.5
    assert precision >= 2.5 * share
    first = {one.number for one in report.label_errors[:20]}
    assert precision_and_recall("the surest 20 of them", first, wrong)[0] >= 4 * share

    near_set, far_set = report.distances
    assert (near_set.set, far_set.set) == ("held", "target")
    assert far_set.a_distance is not None
    assert near_set.a_distance is not None
    print(f"shift: A-distance {far_set.a_distance.distance:.2f}, p = {far_set.mmd.p_value:.3f}")
    assert far_set.a_distance.low > 1.5
    assert far_set.mmd.p_value == 0.001
    assert near_set.a_distance.high < 0.5
    words = {move.word for move in report.moves[1].words}
    assert {"film", "http"} <= words
    said = {line.subject: line.level for line in findings(report)}
    assert said["leakage into held"] == "mend"
    assert said["distance, train → target"] == "look"


def test_two_halves_of_one_set_have_no_gap(worlds: Worlds, tmp_path: Path) -> None:
    samples = clean(tweets(), 400)
    order = np.random.default_rng(0).permutation(400)
    halves = [write(tmp_path / f"{n}.csv", [samples[i] for i in part]) for n, part in enumerate(np.split(order, 2))]
    report = measured(worlds, tmp_path, train=str(halves[0]), validation={"half": str(halves[1])})
    [moves] = report.moves
    assert moves.words == ()
    assert all(abs(move.z) < 3 for move in moves.classes)
    said = {line.subject: line.level for line in findings(report)}
    assert said["distance, train → half"] == "good"
    assert "mend" not in said.values()

    whole = np.concatenate([np.load(file) for file in (tmp_path / "cache" / "features").glob("*.npy")])
    parts = [np.split(np.random.default_rng(seed).permutation(400), 2) for seed in range(20)]
    distances = [proxy_a_distance(whole[one], whole[other]) for one, other in parts]
    p_values = [mmd_test(whole[one], whole[other]).p_value for one, other in parts]
    mean = float(np.mean([found.distance for found in distances]))
    print(f"20 halvings: A-distance {mean:.2f} on average, p = {np.median(p_values):.2f} in the middle")
    assert mean < 0.15
    assert sum(found.low > 0 for found in distances) <= 2
    assert sum(p < 0.01 for p in p_values) <= 2
    assert 0.25 < float(np.median(p_values)) < 0.75


JOB = {
    "name": "x",
    "task": "text-classification",
    "data": {"train": "train.csv", "validation": {"held": "held.csv"}, "target": "far.csv", "cache": "cache"},
    "train": {"max_length": 16},
    "launch": {"device": "cpu", "processes": 2},
}


def test_the_command_with_ranks_of_its_own(tmp_path: Path, tiny_model: Path) -> None:
    for seed, name in enumerate(("train", "held", "far")):
        write_texts(tmp_path / f"{name}.csv", 450, seed=seed, longest=12)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({**JOB, "model": {"pretrained": str(tiny_model)}}))
    allowed = ["--set", "data.allow_leakage=true"]
    report = json.loads(adaptrun("gap", "job.yaml", "--json", *allowed, cwd=tmp_path).stdout)
    assert report["fit"]
    assert [one["samples"] for one in report["sets"]] == [450] * 3
    assert [one["set"] for one in report["distances"]] == ["held", "target"]
    assert report["probe"]["samples"] == 450
    assert report["label_errors"]
    assert len(list((tmp_path / "cache" / "features").glob("*.npy"))) == 3
    said = adaptrun("gap", "job.yaml", "--no-features", cwd=tmp_path, code=1).stdout
    assert "leakage into held" in said
    assert "not fit for training until that is fixed" in said
    assert not list(tmp_path.glob("runs/*"))
    assert "data.target: finetune does not use" in adaptrun("check", "job.yaml", cwd=tmp_path, code=2).stderr


@pytest.mark.parametrize(("method", "leaks"), [("finetune", False), ("coral", True)])
def test_the_target_leaks_where_it_is_learned_from(method: str, leaks: bool, tmp_path: Path) -> None:
    for name, words in (("train", ["red", "blue"]), ("held", ["near", "far"]), ("far", ["high", "far"])):
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{words[0]},a\n{words[1]},b\n")
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({**JOB, "model": {"pretrained": "minilm"}}))
    asked = ["gap", "job.yaml", "--no-features", "--json", "--set", f"adapt.method={method}"]
    report = json.loads(adaptrun(*asked, cwd=tmp_path, code=1 if leaks else 0).stdout)
    assert report["fit"] is not leaks
    (shared,) = [pair for pair in report["across"] if pair["pairs"]]
    assert shared["leaks"] is leaks
    assert shared["pairs"] == [[2, 2]]
    assert (shared["set"], shared["other"]) == (("held", "target") if leaks else ("target", "held"))


def with_noise(name: str, folder: Path, **options: Any) -> Report:
    """The report on a family's samples with features that say nothing."""
    made = JOBS[name]
    data = {"train": made.data(folder, 1, SAMPLES), "validation": {"held": made.data(folder, 2, 9)}}
    job = Job.model_validate(
        {"name": "x", "model": {"pretrained": "m"}, "task": made.task, "data": data, "train": made.train}
    )
    family = find_family(job.task, loss=job.train.loss.name)
    sets = read_sets(job, family, label_format(job, family))
    report = look_at(sets, family.has_classes, allowed=False)
    draw = np.random.default_rng(0)
    features = {one.name: draw.normal(size=(len(one), 5)) for one in sets}
    measure_features(report, sets, features, family, seed=0, **{"errors": True, **options})
    assert findings(report)
    json.loads(as_json(report, findings(report), fit=True))
    return report


@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        ("focal", ()),
        ("pairs", ()),
        ("images", ("near duplicates, mojibake",)),
        ("label sets", ("transferability, label errors",)),
        ("regression", ("label errors",)),
        ("tokens", ("transferability, label errors",)),
        ("chats, packed", ("transferability, label errors",)),
        ("masked", ("transferability, label errors",)),
    ],
)
def test_what_a_family_does_not_have_is_left_out_with_a_word(
    name: str, left_out: tuple[str, ...], tmp_path: Path
) -> None:
    report = with_noise(name, tmp_path)
    assert {one.what for one in report.left_out} == {*left_out, "distance from train to held"}
    assert all(one.why for one in report.left_out)


def test_packages_that_are_not_there_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_features, "is_installed", lambda package: package != "cleanlab")
    report = with_noise("focal", tmp_path)
    assert report.probe is not None
    said = {one.what: one.why for one in report.left_out}
    assert 'pip install "adaptrun[gap]"' in said["label errors"]
    monkeypatch.setattr(on_features, "is_installed", lambda package: False)
    report = with_noise("focal", tmp_path)
    assert report.transferability is not None, "numpy is enough for it"
    assert {"A-distance, linear probe", "label errors"} <= {one.what for one in report.left_out}
    monkeypatch.setattr(gap, "is_installed", lambda package: False)
    with pytest.raises(RequestError, match=r'pip install "adaptrun\[gap\]"'):
        gap.measure_gap(None, True, True, False)  # type: ignore[arg-type]
