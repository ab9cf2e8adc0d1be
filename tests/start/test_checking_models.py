"""`plan` and `submit` ask a process with torch what a model allows, before a run or a batch job is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import adaptrun
from tests.start.conftest import write_job

WRONG = ("--set", 'adapt={method: finetune, lr_factors: {"clasifier.*": 2}}')
OWN_METHOD = """\
from launcher.adapt.method import Method

class Broken(Method):
    def __init__(self, *arguments):
        raise ValueError("not today")
"""


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path) -> Path:
    write_job(tmp_path, tiny_model)
    (tmp_path / "profile.yaml").write_text("time: '10'\n")
    (tmp_path / "own.py").write_text(OWN_METHOD)
    return tmp_path


@pytest.mark.parametrize(
    "command", [("plan",), ("train", "--dry-run"), ("submit", "--dry-run", "--profile", "profile.yaml")]
)
def test_what_the_model_does_not_allow_is_told_before_anything_is_made(command: tuple[str, ...], folder: Path) -> None:
    said = adaptrun(*command, "job.yaml", *WRONG, cwd=folder, code=2)
    assert said.stderr == (
        "adaptrun: adapt.lr_factors: no parameter that learns is named 'clasifier.*'; the model's parts are bert, "
        "dropout, classifier\n"
    )
    assert said.stdout == ""
    assert not (folder / "runs").exists()


def test_of_an_array_each_job_is_asked_about(folder: Path) -> None:
    each = ("--set", "adapt.method=finetune", "--each", "adapt.unfreeze=[2, 400]")
    said = adaptrun("submit", "job.yaml", "--profile", "profile.yaml", *each, cwd=folder, code=2)
    assert "4 stages that begin after 0, 400, 800, 1200 steps do not fit into 24" in said.stderr
    assert not (folder / "runs").exists()


def test_what_cannot_be_looked_at_is_left_to_the_run(folder: Path) -> None:
    own = ("--set", "adapt={method: own, code: own.py:Broken}", "--set", "data.target=train.csv")
    said = adaptrun("plan", "job.yaml", *own, cwd=folder)
    assert "the model could not be looked at before the run, which will do so: rank 0 on " in said.stderr
    assert "ValueError: not today; kept in /" in said.stderr
    assert "torchrun --standalone --nproc-per-node 2" in said.stdout
