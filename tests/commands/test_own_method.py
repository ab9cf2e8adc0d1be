"""The method of docs/extending/method.md, word for word, alike on one process and two; and leaving domains out."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest

from launcher.errors import ExitCode
from launcher.run.events import EventTail, Step
from tests.adapt.domains import write_domain
from tests.cli import adaptrun, start, wait_until

PAGE = Path(__file__).parents[2] / "docs/extending/method.md"
SMALL = ["--set", "train.global_batch_size=8", "--set", "train.max_length=32", "--set", "train.optimizer.lr=2e-3"]
SMALL += ["--set", "launch.device=cpu", "--set", "model.dropout=0"]


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path) -> Path:
    """The files of the page, with a tiny model and two domains."""
    code, job = (
        re.search(rf"```{kind}\n(.*?)```", PAGE.read_text(), re.DOTALL).group(1)  # type: ignore[union-attr]
        for kind in ("python", "yaml")
    )
    (tmp_path / "means.py").write_text(code)
    (tmp_path / "job.yaml").write_text(job.replace("minilm", str(tiny_model)))
    for number, name in enumerate(("reviews", "tweets-unlabelled", "shops")):
        write_domain(tmp_path / f"{name}.csv", number, 30, seed=number)
    return tmp_path


def test_the_page_is_short(folder: Path) -> None:
    assert len([line for line in (folder / "means.py").read_text().splitlines() if line.strip()]) <= 40


def told(*sets: str) -> list[str]:
    """The options of a command that override the job."""
    return [word for one in sets for word in ("--set", one)]


def losses(folder: Path, name: str) -> list[float]:
    events = EventTail(folder / "runs" / name / "metrics.jsonl").read()
    return [event.loss for event in events if isinstance(event, Step)]


def test_it_trains_alike_on_one_process_and_on_two(folder: Path) -> None:
    assert "no problem found" in adaptrun("check", "job.yaml", *SMALL, cwd=folder).stdout
    assert "samples of the target in each step as well" in adaptrun("plan", "job.yaml", *SMALL, cwd=folder).stdout
    found = []
    for processes, engine in ((1, "single"), (2, "fsdp")):
        ways = told(f"launch.processes={processes}", f"engine.name={engine}", f"name=w{processes}")
        adaptrun("train", "job.yaml", *SMALL, *ways, cwd=folder)
        found.append(losses(folder, f"w{processes}"))
    assert len(found[0]) == 12
    assert found[0] == pytest.approx(found[1], rel=1e-4)


LOOKING = """
import time
from pathlib import Path

import torch
from launcher.adapt.methods.method import Method


class Looking(Method):
    def begin_epoch(self, epoch, target):
        seen = torch.zeros(target.samples, dtype=torch.float64)
        for ids, _, logits in target.look():
            seen[ids] = logits.double().softmax(-1).amax(-1)
            if epoch == 1 and Path("slowly").exists():
                with open("looks", "a") as looks:
                    looks.write("look\\n")
                time.sleep(0.5)
        self.state["sure"] = target.add_up(seen).mean().item()

    def terms(self, seen, parts, batch):
        return {"task": seen.losses * self.state["sure"]}
"""


def test_it_is_stopped_while_it_looks_at_the_target_and_goes_on_as_if_it_had_not_been(folder: Path) -> None:
    (folder / "looking.py").write_text(LOOKING)
    sets = told("adapt={method: own, code: 'looking.py:Looking'}", "launch.processes=2", "validation.batch_size=1")
    adaptrun("train", "job.yaml", *SMALL, *sets, "--set", "name=whole", cwd=folder)
    (folder / "slowly").touch()
    command = ("train", "job.yaml", *SMALL, *sets, "--set", "name=stopped")
    running = start(*command, cwd=folder, own_server=False)
    wait_until((folder / "looks").exists, running)
    running.send_signal(signal.SIGTERM)
    assert running.wait(60) == ExitCode.STOPPED
    assert len((folder / "looks").read_text().splitlines()) < 30, "not the whole target was looked at"
    (folder / "slowly").unlink()
    adaptrun(*command, cwd=folder)
    assert losses(folder, "stopped") == losses(folder, "whole")


def test_what_is_no_method_is_refused(folder: Path) -> None:
    (folder / "means.py").write_text("class MeanMatching: ...\n")
    said = adaptrun("train", "job.yaml", *SMALL, "--set", "launch.processes=1", cwd=folder, code=2)
    assert "is not a method; derive it from launcher.methods.Method" in said.stderr


def test_a_name_that_the_interface_no_longer_has_is_refused_with_the_new_one(folder: Path) -> None:
    text = (folder / "means.py").read_text()
    (folder / "means.py").write_text(text.replace("def terms(", "def over_all(self, found): ...\n\n    def terms("))
    said = adaptrun("train", "job.yaml", *SMALL, "--set", "launch.processes=1", cwd=folder, code=2)
    assert "MeanMatching.over_all is now called batch_loss; rename it" in said.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("class MeanMatch: ...\n", "means.py defines no class 'MeanMatching'; it has MeanMatch"),
        ("class MeanMatching(:\n", "means.py, line 1: invalid syntax"),
    ],
)
def test_what_is_no_class_of_the_file_is_told_without_running_it(text: str, said: str, folder: Path) -> None:
    (folder / "means.py").write_text(text)
    assert said in adaptrun("check", "job.yaml", *SMALL, cwd=folder, code=2).stderr


def test_terms_without_weights_are_told(folder: Path) -> None:
    text = (folder / "means.py").read_text()
    (folder / "means.py").write_text(text.replace('("task", "source_domain"', '("task", "source_domian"'))
    said = adaptrun("train", "job.yaml", *SMALL, "--set", "launch.processes=1", cwd=folder, code=2).stderr
    assert (
        "MeanMatching.weights gives task, source_domain, target_domain, and its loss_terms are task, source_domian, "
        "target_domain; each term needs both"
    ) in said


def test_each_domain_is_left_out_once_and_judged_unseen(folder: Path) -> None:
    once = told("adapt={method: finetune}", "data={train: {reviews: reviews.csv, shops: shops.csv}}", "train.epochs=1")
    once += told("launch.processes=1", "validation.metric=accuracy")
    said = adaptrun("leave-one-out", "job.yaml", *once, *SMALL, cwd=folder).stdout
    assert re.search(r"reviews +│ +30 ", said)
    assert re.search(r"shops +│ +30 ", said)
    for left, kept in (("reviews", "shops"), ("shops", "reviews")):
        job = json.loads(adaptrun("check", f"runs/means-without-{left}/job.yaml", "--json", cwd=folder).stdout)
        assert list(job["data"]["train"]) == [kept]
        assert list(job["data"]["validation"]) == [left]
        assert job["checkpoint"]["result"] == "last", "what is left out chooses nothing"


def test_one_domain_cannot_be_left_out(folder: Path) -> None:
    sets = [*SMALL, "--set", "adapt={method: finetune}", "--set", "data={train: reviews.csv}"]
    assert "needs several training sets" in adaptrun("leave-one-out", "job.yaml", *sets, cwd=folder, code=2).stderr
