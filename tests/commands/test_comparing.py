"""`adaptrun compare`: what differs is shown side by side, and what does not is not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from launcher.display.comparison import RunMetric, verdict
from tests.cli import adaptrun
from tests.small_run import Trained, write_job


@pytest.fixture(scope="session")
def other(trained: Trained, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on one process, with another learning rate and fewer samples to train on."""
    folder = tmp_path_factory.mktemp("other")
    write_job(folder, tiny_model)
    lines = (folder / "train.csv").read_text().splitlines(keepends=True)
    (folder / "train.csv").write_text("".join(lines[:41]))
    adaptrun("train", "job.yaml", "--set", "train.optimizer.lr=1e-5", "--set", "launch.processes=1", cwd=folder)
    return folder / "runs" / "small"


def test_job_data_plan_and_result_stand_side_by_side(trained: Trained, other: Path) -> None:
    told = json.loads(adaptrun("compare", trained.run, other, "--json", cwd=other).stdout)
    assert told["job"]["train.optimizer.lr"] == [2e-3, 1e-5]
    assert set(told["job"]) == {
        "train.optimizer.lr",
        "launch.processes",
        "launch.runs",
        "data.cache",
        "data.train.train.source",
        "data.validation.near.source",
        "data.validation.far.source",
    }
    assert told["data"]["train.samples"] == [60, 40]
    assert set(told["data"]) == {"train.samples", "train.content"}, "the same validation data, though elsewhere"
    assert told["plan"]["engine"] == ["ddp", "single"]
    assert told["environment"] == {}
    assert [(run["state"], run["steps"], run["total_steps"]) for run in told["runs"]] == [
        ("done", 24, 24),
        ("done", 15, 15),
    ]
    for run, folder in enumerate((trained.run, other)):
        result = json.loads((folder / "result.json").read_text())
        assert told["runs"][run]["seconds"] == result["seconds"]
        for name, found in result["sets"].items():
            for metric, after in found["after"].items():
                measured = told["metrics"][name][metric][run]
                assert (measured["samples"], measured["before"], measured["after"]) == (
                    found["samples"],
                    found["before"][metric],
                    after,
                )
                assert measured["after_interval"] == found["after_interval"][metric]
                assert measured["before_interval"] == found["before_interval"][metric]
    near = told["metrics"]["near"]["accuracy"]
    assert near[0]["verdict"] is None
    (low, high), (other_low, other_high) = near[0]["after_interval"], near[1]["after_interval"]
    meet = "equal" if (near[0]["after"], low, high) == (near[1]["after"], other_low, other_high) else "overlap"
    assert near[1]["verdict"] == ("apart" if high < other_low or other_high < low else meet)


def test_on_the_screen(trained: Trained, other: Path) -> None:
    told = adaptrun("compare", trained.run, other, trained.run, cwd=other.parent).stdout
    assert re.search(r"train\.optimizer\.lr.*0\.002.*1e-05.*0\.002", told)
    assert "environment: no difference" in told
    assert re.search(r"accuracy.*\(\d\.\d{3}–\d\.\d{3}\)", told)
    assert "24 of 24" in told


def test_a_run_does_not_differ_from_itself(trained: Trained) -> None:
    told = json.loads(adaptrun("compare", trained.run, trained.run.resolve(), "--json", cwd=trained.folder).stdout)
    assert [told[section] for section in ("job", "data", "plan", "environment")] == [{}, {}, {}, {}]
    assert {row[1]["verdict"] for metrics in told["metrics"].values() for row in metrics.values()} == {"equal"}


def test_a_run_that_is_not_finished_is_shown_as_far_as_it_is(trained: Trained, tmp_path: Path) -> None:
    run = tmp_path / "half"
    run.mkdir()
    (run / "job.yaml").write_bytes((trained.run / "job.yaml").read_bytes())
    told = json.loads(adaptrun("compare", trained.run, run, "--json", cwd=tmp_path).stdout)
    assert (told["runs"][1]["state"], told["runs"][1]["steps"], told["runs"][1]["total_steps"]) == (
        "unfinished",
        0,
        None,
    )
    assert told["metrics"]["near"]["accuracy"][1] is None

    lines = (trained.run / "metrics.jsonl").read_text().splitlines(keepends=True)
    steps = [index for index, line in enumerate(lines) if json.loads(line)["kind"] == "evaluated"]
    (run / "metrics.jsonl").write_text("".join(lines[: steps[1] + 1]))
    told = json.loads(adaptrun("compare", trained.run, run, "--json", cwd=tmp_path).stdout)
    assert (told["runs"][1]["state"], told["runs"][1]["steps"]) == ("unfinished", 8)
    whole, half = told["metrics"]["near"]["accuracy"]
    assert half["before"] == whole["before"]
    assert (half["after"], half["step"]) == (json.loads(lines[steps[1]])["metrics"]["near"]["accuracy"], 8)
    assert (half["after_interval"], half["verdict"]) == (None, "unknown")
    assert " at step 8" in adaptrun("compare", trained.run, run, cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}"], "name two or more runs to compare"),
        (["{run}", "nowhere"], "nowhere is no run's folder; name one in runs/"),
        (["{run}/model", "{run}"], "is no run's folder"),
    ],
)
def test_what_is_no_run_is_refused(trained: Trained, arguments: list[str], message: str) -> None:
    words = [argument.format(run=trained.run) for argument in arguments]
    assert message in adaptrun("compare", *words, cwd=trained.folder, code=2).stderr


@pytest.mark.parametrize(
    ("ends", "samples", "expected"),
    [
        ((0.4, 0.6), 9, "equal"),
        ((0.5, 0.6), 9, "overlap"),
        ((0.6, 0.7), 9, "overlap"),
        ((0.61, 0.7), 9, "apart"),
        ((0.1, 0.2), 9, "apart"),
        ((0.5, 0.6), 8, "other samples"),
        (None, 9, "unknown"),
    ],
)
def test_the_verdict_on_two_intervals(ends: tuple[float, float] | None, samples: int, expected: str) -> None:
    first = RunMetric(9, 0.1, 0.5, None, None, (0.4, 0.6))
    assert verdict(first, RunMetric(samples, 0.1, 0.5, None, None, ends)) == expected
