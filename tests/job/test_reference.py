"""The reference page, the editor schema, the starter jobs and the examples agree with what is read."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from launcher.cli import main
from launcher.job import reference
from launcher.job.reading.job_file import load_job
from launcher.job.schema import Job
from launcher.job.sections.tasks import FAMILIES, find_family
from launcher.job.starter import STARTERS

EXAMPLES = sorted((reference.DOCS.parent / "examples").glob("*.yaml"))


def test_the_page_and_the_schema_are_current() -> None:
    assert (reference.DOCS / reference.PAGE).read_text() == reference.page(), "run: make docs"
    assert (reference.DOCS / reference.SCHEMA).read_text() == reference.schema(), "run: make docs"


def test_every_field_has_a_description_of_its_own() -> None:
    assert not [line for line in reference.page().splitlines() if line.endswith(("| None |", "|  |"))]


JOB = {"name": "x", "model": {"pretrained": "m"}, "task": "text-classification"}


@pytest.mark.parametrize("train", ["a.csv", ["a.csv", "b.csv"], {"source": "a.csv", "text": "t"}])
@pytest.mark.parametrize("validation", ["d.csv", {"source": "d.csv"}, {"near": "d.csv", "far": {"source": "e.csv"}}])
def test_the_schema_takes_the_short_forms(train: object, validation: object) -> None:
    job = {**JOB, "data": {"train": train, "validation": validation}}
    jsonschema.validate(job, json.loads(reference.schema()))
    Job.model_validate(job)


@pytest.mark.parametrize("track", ["wandb", ["wandb", {"name": "mlflow"}], {"name": "wandb", "mode": "offline"}])
def test_the_schema_takes_trackers_by_name(track: object) -> None:
    job = {**JOB, "data": {"train": "a.csv"}, "track": track}
    jsonschema.validate(job, json.loads(reference.schema()))
    assert Job.model_validate(job).track[0].name == "wandb"


@pytest.mark.parametrize(
    "extra", [{"trian": 1}, {"track": ["board"]}, {"train": {"epochs": 0}}, {"train": {"optimizer": {"name": "adam"}}}]
)
def test_the_schema_refuses_what_is_refused(extra: dict[str, object]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**JOB, "data": {"train": "a.csv"}, **extra}, json.loads(reference.schema()))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_fit_the_schema(example: Path) -> None:
    jsonschema.validate(yaml.safe_load(example.read_text()), json.loads(reference.schema()))


@pytest.mark.parametrize("task", STARTERS)
def test_a_starter_job_is_good_as_soon_as_its_data_are_there(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("train", "validation"):
        Path(f"{name}.csv").write_text("text,label\na,1\n")
        Path(f"{name}.jsonl").write_text(json.dumps({"messages": []}) + "\n")
        Path(f"{name}.conll").write_text("a O\n")
        for file in ("images/{}/cat/1.png", "sounds/{}/yes/1.wav"):
            path = Path(file.format(name))
            path.parent.mkdir(parents=True)
            path.touch()

    def say(*words: str) -> int:
        monkeypatch.setattr("sys.argv", ["adaptrun", *words])
        try:
            main()
        except SystemExit as leave:
            return int(leave.code or 0)
        return 0

    assert say("init", "--task", task) == 0
    assert say("check", "job.yaml") == 0
    assert "no problem found" in capsys.readouterr().out
    assert load_job(Path("job.yaml")).task == task
    assert say("init", "--task", task) == 2
    assert "job.yaml exists already and is not overwritten" in capsys.readouterr().err
    assert say("init", "--task", "poetry", "-o", "other.yaml") == 2
    assert "there is no task 'poetry'; the tasks are text-classification, text-regression" in capsys.readouterr().err


def test_every_task_has_a_starter_and_is_in_the_table_of_tasks() -> None:
    assert set(STARTERS) == set(FAMILIES)
    page = (reference.DOCS / "guides/tasks.md").read_text()
    for name in FAMILIES:
        (line,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` ")]
        family = find_family(name)
        said = [
            *(family.inputs or ()),
            *(family.targets or ()),
            *(family.losses or ()),
            *(family.metric_directions or ()),
        ]
        assert not [word for word in said if f"`{word}`" not in line], name
