"""`plan` and `submit` ask a process with torch what a model allows, before a run or a batch job is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.commands import check
from launcher.errors import Stopped
from launcher.job.reading.job_file import load_job
from launcher.plan.planner import make_plan
from launcher.supervise import requests
from tests.cli import adaptrun
from tests.small_run import write_job

WRONG = ("--set", 'adapt={method: finetune, lr_factors: {"clasifier.*": 2}}')
OWN_TASK = """\
from launcher.models.tasks.text_regression import TextRegression

class Own(TextRegression):
    auto_class = "AutoModelForSequenceClassification"
    losses = ("squared-error",)
    inputs = ("text",)
    targets = ("label",)

    def configure(self, config):
        raise ValueError("not today")
"""


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path) -> Path:
    write_job(tmp_path, tiny_model)
    (tmp_path / "profile.yaml").write_text("time: '10'\n")
    (tmp_path / "own.py").write_text(OWN_TASK)
    return tmp_path


@pytest.mark.parametrize(
    "command", [("plan",), ("train", "--dry-run"), ("submit", "--dry-run", "--profile", "profile.yaml")]
)
def test_what_the_model_does_not_allow_is_told_before_anything_is_made(command: tuple[str, ...], folder: Path) -> None:
    said = adaptrun(*command, "job.yaml", *WRONG, cwd=folder, code=2)
    assert said.stderr == (
        "adaptrun: adapt.lr_factors: no parameter is named 'clasifier.*'; the model's parts are bert, classifier\n"
    )
    assert said.stdout == ""
    assert not (folder / "runs").exists()


def test_of_an_array_each_job_is_asked_about(folder: Path) -> None:
    each = ("--set", "adapt.method=finetune", "--each", "adapt.unfreeze=[2, 400]", "--each", "train.seed=[1, 2]")
    said = adaptrun("submit", "job.yaml", "--profile", "profile.yaml", *each, cwd=folder, code=2)
    assert "adaptrun: adapt.unfreeze=400, train.seed=1: adapt: 4 stages that begin after 0, 400, 800" in said.stderr
    assert not (folder / "runs").exists()


def test_what_cannot_be_looked_at_is_left_to_the_run(folder: Path) -> None:
    own = ("--set", "task=own.py:Own", "--set", "adapt={method: finetune, layer_decay: 0.9}")
    said = adaptrun("plan", "job.yaml", *own, "--set", "validation.metric=loss", cwd=folder)
    assert "the model could not be checked here, the run will check it: ValueError: not today" in said.stderr
    assert "torchrun --standalone --nproc-per-node 2" in said.stdout


def test_adapters_that_are_made_of_all_weights_are_left_to_the_run(folder: Path) -> None:
    dora = ("--set", 'adapt={adapters: {kind: dora}, lr_factors: {"clasifier.*": 2}}')
    assert "torchrun" in adaptrun("plan", "job.yaml", *dora, cwd=folder).stdout


def test_jobs_that_differ_in_the_seed_are_one_question(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[str]()
    monkeypatch.setattr(check, "ask_ranks", lambda request, **_: asked.extend(run.name for run in request.planned))
    sets = [["adapt={method: finetune, unfreeze: 2}", f"train.seed={seed}"] for seed in range(3)]
    jobs = [load_job(folder / "job.yaml", text) for text in [*sets, ["train.seed=7"]]]
    check.check_models([(str(number), job, make_plan(job, folder / "job.yaml")) for number, job in enumerate(jobs)])
    assert asked == ["0"]


def test_a_request_to_stop_speaks_of_no_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise Stopped("the same command resumes from the last complete checkpoint")

    monkeypatch.setattr(requests, "run_ranks", stopped)
    job = load_job(folder / "job.yaml", ["adapt={adapters: {kind: lora}}"])
    with pytest.raises(Stopped, match="stopped; nothing was created or queued"):
        check.check_models([("", job, make_plan(job, folder / "job.yaml"))])
