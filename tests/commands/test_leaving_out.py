"""Leaving domains out goes on where it was stopped, and its answer is alone on standard output; nothing is trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from launcher.commands import leave_one_out
from launcher.errors import Stopped
from launcher.job.reading.job_file import load_job
from launcher.job.schema import Job
from launcher.run.folder import RunFolder
from launcher.run.results import Result, SetResult
from tests.cli import adaptrun

DOMAINS = ("films", "shops", "hotels")


class Training:
    """Stands for `train_job`: notes which domains it was asked for, and is stopped at one of them."""

    def __init__(self, stopped_at: str | None = None) -> None:
        self.stopped_at, self.asked = stopped_at, list[str]()

    def __call__(self, job: Job, job_file: Path, resume: str) -> RunFolder:
        domain = job.name.rpartition("-")[2]
        self.asked.append(domain)
        run = RunFolder.create(job)
        print("so many lines of progress")
        if domain == self.stopped_at:
            raise Stopped("stopped after step 1 of 2")
        figures = {"accuracy": 0.5}, {"accuracy": 0.5}, {"accuracy": (0.4, 0.6)}, {"accuracy": (0.4, 0.6)}
        found = SetResult(30, *figures)
        Result("done", job.name, steps=2, seconds=1.0, model=str(run.model), sets={domain: found}).write(
            run.result_file
        )
        return run  # without a link, as on a file system that has none


@pytest.fixture
def job(tmp_path: Path, tiny_model: Path) -> Job:
    for name in DOMAINS:
        (tmp_path / f"{name}.csv").write_text("text,label\na,b\n")
    values = {
        "name": "x",
        "model": {"pretrained": str(tiny_model)},
        "task": "text-classification",
        "data": {"train": {name: str(tmp_path / f"{name}.csv") for name in DOMAINS}, "cache": str(tmp_path / "cache")},
        "train": {"max_length": 32},
        "validation": {"metric": "accuracy"},
        "launch": {"runs": str(tmp_path / "runs")},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return load_job(tmp_path / "job.yaml")


def asked(job: Job, monkeypatch: pytest.MonkeyPatch, resume: str = "auto", stopped_at: str | None = None) -> list[str]:
    training = Training(stopped_at)
    monkeypatch.setattr(leave_one_out, "train_job", training)
    try:
        leave_one_out.leave_one_out(job, Path("job.yaml"), resume, as_json=True)
    except Stopped:
        assert stopped_at is not None
    return training.asked


def test_what_was_finished_before_a_stop_is_not_run_again(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(job, monkeypatch, stopped_at="shops") == ["films", "shops"]
    assert asked(job, monkeypatch, resume="never", stopped_at="shops") == ["films", "shops"]
    assert asked(job, monkeypatch, stopped_at="hotels") == ["shops", "hotels"]
    assert asked(job, monkeypatch) == ["hotels"]
    assert asked(job, monkeypatch) == list(DOMAINS), "all were finished, so that this is a new beginning"
    other = job.model_copy(update={"train": job.train.model_copy(update={"seed": 7})})
    assert asked(other, monkeypatch, stopped_at="shops") == ["films", "shops"], "of another job nothing is taken"


def test_the_answer_is_alone_on_standard_output(
    job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked(job, monkeypatch)
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert [one["domain"] for one in found] == list(DOMAINS)
    assert all(RunFolder(Path(one["run"])).is_done() for one in found)
    assert "lines of progress" in said.err


def test_a_dry_run_shows_the_plan_of_each(job: Job, tmp_path: Path) -> None:
    said = adaptrun("leave-one-out", "job.yaml", "--dry-run", "--json", cwd=tmp_path).stdout
    plans = json.loads(said)
    assert [plan["name"] for plan in plans.values()] == [f"x-without-{domain}" for domain in DOMAINS]
    assert [plan["train_samples"] for plan in plans.values()] == [2, 2, 2]
    said = adaptrun("leave-one-out", "job.yaml", "--dry-run", cwd=tmp_path).stdout
    assert said.count("processes ") == len(DOMAINS)
    assert not (tmp_path / "runs").exists()
