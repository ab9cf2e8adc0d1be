"""The model of docs/guides/own-model.md, word for word: checked, trained, evaluated, and another job begins with it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli import adaptrun
from tests.tiny import write_texts

PAGE = Path(__file__).parents[2] / "docs/guides/own-model.md"
SMALL = ["--set", "train.global_batch_size=8", "--set", "launch.device=cpu", "--set", "data.cache=cache"]
SMALL += ["--set", "train.optimizer.lr=1e-2", "--set", "launch.processes=2"]


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path) -> Path:
    """The files of the page, with the tokenizer of a tiny model."""
    beside, build = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (job,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "plain_net.py").write_text(beside)
    (tmp_path / "build.py").write_text(build)
    (tmp_path / "job.yaml").write_text(job.replace("minilm", str(tiny_model)))
    write_texts(tmp_path / "train.csv", 64)
    write_texts(tmp_path / "held-out.csv", 30, seed=1)
    return tmp_path


def test_it_is_trained_evaluated_and_continued(folder: Path) -> None:
    assert "no problem found" in adaptrun("check", "job.yaml", *SMALL, cwd=folder).stdout
    adaptrun("train", "job.yaml", *SMALL, "--set", "train.epochs=2", cwd=folder)
    result = json.loads((folder / "runs/bag/result.json").read_text())["sets"]["validation"]
    asked = ("runs/bag", "--data", "held-out.csv", "--processes", "1")
    assert "--trust-code" in adaptrun("evaluate", *asked, cwd=folder, code=2).stderr
    told = adaptrun("evaluate", *asked, "--json", "--trust-code", "build.py", cwd=folder)
    for name in ("build", "plain_net"):
        assert re.search(rf"own code: .*/{name}\.py \(sha256 [0-9a-f]{{64}}\)", told.stderr)
    assert json.loads(told.stdout)["metrics"]["accuracy"] == pytest.approx(result["after"]["accuracy"])
    adaptrun("predict", *asked, "-o", "answers.csv", "--trust-code", "build.py", cwd=folder)
    assert len((folder / "answers.csv").read_text().splitlines()) == 31
    (folder / "next.yaml").write_text(
        "name: next\nmodel: {pretrained: runs/bag, trust_code: [build.py]}\ntask: text-classification\n"
        "data: {train: train.csv, validation: held-out.csv}\ntrain: {max_length: 32, max_steps: 1}\n"
    )
    assert "has no trained head" not in adaptrun("check", "next.yaml", cwd=folder).stdout
    adaptrun("train", "next.yaml", *SMALL, cwd=folder)
    again = json.loads((folder / "runs/next/result.json").read_text())["sets"]["validation"]
    assert again["before"] == pytest.approx(result["after"], rel=1e-5)
    assert json.loads((folder / "runs/next/model/adaptrun.json").read_text())["function"] == f"{folder}/build.py:build"
    events = (folder / "runs/bag/metrics.jsonl").read_text()
    assert re.search(r"own code: .*/build\.py \(sha256 [0-9a-f]{64}\)", events)
