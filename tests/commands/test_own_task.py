"""The task of docs/extending/task.md, word for word: checked, planned, trained, resumed, evaluated, and it predicts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli import adaptrun, ranks_of, start, wait_until
from tests.families import texts
from tests.tiny import WORDS

PAGE = Path(__file__).parents[2] / "docs/extending/task.md"
GOOD, BAD = WORDS[:2]
SMALL = ["--set", "train.global_batch_size=8", "--set", "train.max_length=32", "--set", "train.optimizer.lr=2e-3"]
SMALL += ["--set", "launch.device=cpu", "--set", "launch.processes=2", "--set", "data.cache=cache"]


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path) -> Path:
    """The files of the page, with a tiny model and preferences that a single word decides."""
    code, job = (
        re.search(rf"```{kind}\n(.*?)```", PAGE.read_text(), re.DOTALL).group(1) for kind in ("python", "yaml")
    )  # type: ignore[union-attr]
    (tmp_path / "reward.py").write_text(code)
    (tmp_path / "job.yaml").write_text(job.replace("minilm", str(tiny_model)))
    for seed, (name, samples) in enumerate({"preferences": 60, "held-out": 25}.items()):
        rows = [" ".join(words) for words in texts(seed, samples)]
        lines = [json.dumps({"chosen": f"{GOOD} {row}", "rejected": f"{BAD} {row}"}) + "\n" for row in rows]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    return tmp_path


def test_the_page_is_short(folder: Path) -> None:
    code = (folder / "reward.py").read_text()
    body = code[code.index("class Preference") :]
    assert len([line for line in body.splitlines() if line.strip()]) <= 40


def test_it_goes_through_every_command(folder: Path) -> None:
    assert "no problem found" in adaptrun("check", "job.yaml", *SMALL, cwd=folder).stdout
    assert "60" in adaptrun("plan", "job.yaml", *SMALL, cwd=folder).stdout
    adaptrun("train", "job.yaml", *SMALL, "--set", "engine.name=fsdp", cwd=folder)
    result = json.loads((folder / "runs/reward/result.json").read_text())["sets"]["validation"]
    assert result["after"]["agreement"] > result["before"]["agreement"]
    asked = ("runs/reward", "--data", "held-out.jsonl", "--trust-code", "reward.py")
    said = adaptrun("evaluate", *asked, "--json", "--processes", 2, cwd=folder)
    assert json.loads(said.stdout)["metrics"] == pytest.approx(result["after"], rel=1e-4)
    adaptrun("predict", *asked, "-o", "out.jsonl", "--processes", 1, cwd=folder)
    rows = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert sum(row["margin"] > 0 for row in rows) / 25 == pytest.approx(result["after"]["agreement"])


@pytest.mark.slow
def test_it_goes_on_where_it_was_stopped_under_another_engine(folder: Path) -> None:
    stopped = [*SMALL, "--set", "train.epochs=40"]
    launcher = start("train", "job.yaml", *stopped, "--set", "engine.name=ddp", cwd=folder)
    wait_until(
        lambda: any('"kind": "step"' in file.read_text() for file in folder.glob("runs/*/metrics.jsonl")), launcher
    )
    assert len(ranks_of(launcher)) == 2
    launcher.terminate()
    assert launcher.wait(timeout=120) == 75, (folder / "stderr").read_text()
    engine = ["--set", "engine.name=deepspeed", "--set", "engine.deepspeed=zero3"]
    said = adaptrun("train", "job.yaml", *stopped, *engine, cwd=folder).stdout
    assert "resuming from step-" in said
    assert json.loads((folder / "runs/reward/result.json").read_text())["steps"] == 40 * 8


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("reward.py", "name the class of reward.py that is the task"),
        ("reward.py:Rewards", "defines no class 'Rewards'\n    fix: it has Preference, Reward"),
        ("rewards.py:Reward", "there is no"),
        ("reward", "there is no task 'reward'"),
    ],
)
def test_a_task_that_is_not_there_is_refused_by_check(task: str, said: str, folder: Path) -> None:
    found = adaptrun("check", "job.yaml", "--set", f"task={task}", cwd=folder, code=2).stderr
    assert said in found
    assert ": task: " in found


def test_what_it_says_of_itself_is_checked(folder: Path) -> None:
    sets = ["validation.metric=agreeement", "train.loss.name=hinge", "train.packing=true"]
    sets.append("data.train={source: preferences.jsonl, label: x}")
    found = adaptrun("check", "job.yaml", *SMALL, *(w for s in sets for w in ("--set", s)), cwd=folder, code=2).stderr
    assert "did you mean agreement?" in found
    assert "it has preference" in found
    assert "does not use packing" in found
    assert "does not read label" in found


def test_a_task_that_lacks_a_part_is_refused_before_the_ranks_start(folder: Path) -> None:
    code = (folder / "reward.py").read_text()
    (folder / "reward.py").write_text(code[: code.index("    def predictions")])
    said = adaptrun("train", "job.yaml", *SMALL, cwd=folder, code=2).stderr
    assert "lacks predictions" in said
