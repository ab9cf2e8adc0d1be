"""Training does not start on data whose validation samples it would learn, unless the job says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.data.prepared import Prepared
from launcher.errors import LeakageError
from launcher.job.schema import Job
from launcher.run.events import EventLog, EventTail, Note
from launcher.run.folder import RunFolder
from launcher.worker.data.inputs import prepare
from tests.cli import adaptrun
from tests.families import JOBS, job_values


def leaking(name: str, folder: Path) -> dict[str, Any]:
    """The job of a family that is judged by the first four of its training samples and five others."""
    values = job_values(name, folder)
    train, held = values["data"]["train"], values["data"]["validation"]["held"]
    both = {**held, "source": [train["source"], held["source"]], "limit": 24}
    return {**values, "data": {**values["data"], "validation": {"held": both}}}


def prepared(values: dict[str, Any]) -> list[str]:
    """What the log notes while the data are prepared."""
    folder = RunFolder.create(Job.model_validate(values))
    log = EventLog(folder.events_file)
    try:
        prepare(Job.model_validate(values), folder, log)
    finally:
        log.close()
    return [event.text for event in EventTail(folder.events_file).read() if isinstance(event, Note)]


@pytest.mark.parametrize("name", JOBS)
def test_leaks_stop_every_family(name: str, tmp_path: Path) -> None:
    assert prepared(job_values(name, tmp_path)) == []
    values = leaking(name, tmp_path)
    with pytest.raises(LeakageError, match=r"22 of the 24 samples of data\.validation\.held are also in data\.train"):
        prepared(values)
    with pytest.raises(LeakageError, match="allow_leakage: true"):  # now from the cache
        prepared(values)
    values["data"]["allow_leakage"] = True
    assert prepared(values)[0].startswith("22 of the 24 samples")


def test_each_training_set_is_looked_at_and_what_is_rehearsed(tmp_path: Path) -> None:
    values = leaking("focal", tmp_path)
    train, held = values["data"]["train"], values["data"]["validation"]["held"]
    other = {**train, "source": held["source"][1], "limit": 3}
    values["data"]["train"] = {"films": train, "shops": other}
    with pytest.raises(LeakageError, match=r"also in data\.train\.films .*; 2 of .* also in data\.train\.shops"):
        prepared(values)
    values["data"]["train"], values["adapt"] = {"films": train}, {"method": "finetune", "rehearsal": {"source": other}}
    with pytest.raises(
        LeakageError, match=r"2 of the 24 samples of data\.validation\.held are also in adapt\.rehearsal"
    ):
        prepared(values)


def test_the_target_counts_where_it_is_learned_from(tmp_path: Path) -> None:
    values = job_values("focal", tmp_path)
    held = values["data"]["validation"]["held"]
    copied = tmp_path / f"copied{Path(held['source']).suffix}"
    copied.write_text(Path(held["source"]).read_text())
    values["data"]["target"] = {**held, "source": str(copied)}
    assert prepared(values) == [], "fine-tuning only looks at it"
    values["adapt"] = {"method": "mmd"}
    with pytest.raises(LeakageError, match=r"samples of data\.validation\.held are also in data\.target"):
        prepared(values)


def test_the_command_says_which_and_how_to_go_on(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(f"babe bade {n},{n % 2}\n" for n in range(8)))
    (tmp_path / "held.csv").write_text("text,label\nbider,0\nBabe  bade 5 ,1\n")
    job = {
        "name": "x",
        "model": {"pretrained": str(tiny_model)},
        "task": "text-classification",
        "data": {"train": "train.csv", "validation": {"held": "held.csv"}, "cache": "cache"},
        "train": {"epochs": 1, "global_batch_size": 4, "max_length": 16},
        "launch": {"processes": 1, "device": "cpu"},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    said = adaptrun("train", "job.yaml", cwd=tmp_path, code=2).stderr
    assert "1 of the 2 samples of data.validation.held are also in data.train" in said
    assert "sample 2 of held is sample 6 there" in said
    assert "data.allow_leakage: true" in said
    said = adaptrun("train", "job.yaml", "--set", "data.allow_leakage=true", cwd=tmp_path).stdout
    assert "1 of the 2 samples" in said
    places = json.loads(next((tmp_path / "runs").glob("x-*/prepared.json")).read_text())
    assert len(Prepared(Path(places["train"]["train"])).fingerprints) == 8
