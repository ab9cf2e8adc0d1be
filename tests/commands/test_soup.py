"""`adaptrun soup` and `adaptrun train --find-lr`, as commands with two processes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from launcher.commands.soup import soup_runs
from launcher.errors import DataError, RequestError
from launcher.job.reading.job_file import load_job
from launcher.run.folder import RunFolder
from launcher.worker.requests.soup import metric_of
from tests.cli import adaptrun
from tests.tiny import write_texts


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path) -> Path:
    write_texts(tmp_path / "train.csv", 60, seed=1)
    write_texts(tmp_path / "dev.csv", 45, seed=2)
    job = {
        "name": "one",
        "model": {"pretrained": str(tiny_model), "dropout": 0.0},
        "task": "text-classification",
        "data": {"train": "train.csv", "validation": "dev.csv", "cache": "cache"},
        "train": {"epochs": 2, "global_batch_size": 12, "max_length": 32, "optimizer": {"lr": 3e-3}},
        "validation": {"metric": "loss"},
        "launch": {"processes": 2, "device": "cpu"},
    }
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_soup_is_a_model_folder_as_good_as_it_says(folder: Path) -> None:
    for seed, name in enumerate(("one", "two", "three")):
        adaptrun("train", "job.yaml", "--set", f"name={name}", "--set", f"train.seed={seed}", cwd=folder)
    runs = [f"runs/{name}" for name in ("one", "two", "three")]
    soup = json.loads(adaptrun("soup", *runs, "-o", "mixed", "--json", cwd=folder).stdout)
    assert soup["metric"] == "loss"
    values = [one["alone"] for one in soup["runs"]]
    assert values == sorted(values), "the best first"
    kept = [one["together"] for one in soup["runs"] if one["kept"]]
    assert kept == sorted(kept, reverse=True), "none makes it worse"
    found = json.loads(adaptrun("evaluate", "mixed", "--data", "dev.csv", "--json", cwd=folder).stdout)
    assert found["metrics"]["loss"] == pytest.approx(kept[-1], rel=1e-5)
    again = adaptrun("soup", *runs, "-o", "mixed", cwd=folder, code=2)
    assert "mixed exists already" in again.stderr


@pytest.mark.parametrize(
    ("runs", "message"),
    [(["runs/one"], "two runs or more"), (["runs/one", "runs/two"], "runs/one is no run's folder")],
)
def test_a_soup_of_nothing_is_refused(runs: list[str], message: str, tmp_path: Path) -> None:
    assert message in adaptrun("soup", *runs, "-o", "mixed", cwd=tmp_path, code=2).stderr


def finished(folder: Path, name: str, seed: int) -> RunFolder:
    """A run with a model of its own, as far as a soup looks at it."""
    run = RunFolder.create(load_job(folder / "job.yaml", [f"name={name}"]), folder / "runs" / name)
    tiny = Path(load_job(folder / "job.yaml").model.pretrained)
    shutil.copytree(tiny, run.model)
    torch.manual_seed(seed)
    options = {"id2label": {0: "class-0", 1: "class-1"}, "label2id": {"class-0": 0, "class-1": 1}}
    AutoModelForSequenceClassification.from_pretrained(tiny, **options).save_pretrained(run.model)
    (run.model / "adaptrun.json").write_text('{"task": "text-classification", "max_length": 32}')
    return run


def test_a_soup_needs_no_training_data_any_more_and_writes_into_no_cache_that_a_run_names(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [finished(folder, name, seed) for seed, name in enumerate(("one", "two"))]
    (folder / "train.csv").unlink()
    monkeypatch.setenv("HOME", str(folder / "home"))
    soup_runs([run.path for run in runs], folder / "mixed", "fp32", 1, as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert {one["folder"] for one in said["runs"]} == {str(run.model) for run in runs}
    assert (folder / "mixed" / "model.safetensors").is_file()
    assert not (folder / "cache").exists()
    assert any((folder / "home" / ".cache" / "adaptrun").iterdir())


def test_a_soup_without_the_data_that_judge_it_is_refused(folder: Path) -> None:
    runs = [finished(folder, name, seed) for seed, name in enumerate(("one", "two"))]
    (folder / "dev.csv").unlink()
    with pytest.raises(DataError, match=r"dev\.csv: there is no such file"):
        soup_runs([run.path for run in runs], folder / "mixed", "fp32", 1, as_json=True)


@pytest.mark.slow
def test_the_finder_prints_a_table_and_keeps_nothing(folder: Path) -> None:
    said = adaptrun("train", "job.yaml", "--find-lr", cwd=folder).stdout
    rows = re.findall(r"^ +(\d\S+e[+-]\d+) +(\d+\.\d+) +(\d+\.\d+)$", said, re.MULTILINE)
    rates = [float(row[0]) for row in rows]
    assert rates[0] == pytest.approx(1e-7)
    assert rates == sorted(rates)
    assert len(rates) > 5
    assert re.search(r"suggestion: train.optimizer.lr: \S+, a tenth of \S+, where the smoothed loss is least", said)
    assert not (folder / "runs").exists()


def test_a_metric_that_the_models_lack_is_refused() -> None:
    """A run's folder is data, and its job may have been written by hand."""
    assert metric_of({"loss": 0.5, "accuracy": 0.75}, "accuracy") == 0.75
    with pytest.raises(RequestError, match=r"have no metric 'f1'.*they have loss, accuracy"):
        metric_of({"loss": 0.5, "accuracy": 0.75}, "f1")
