"""Families through the commands: columns named on the command line, predictions, bad data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli import adaptrun
from tests.families import job_values, jsonl, pictures
from tests.tiny import WORDS


def write(folder: Path, name: str, **train: Any) -> dict[str, Any]:
    """The job of a family, as a file."""
    values = job_values(name, folder, **train)
    values["launch"]["processes"] = 1
    (folder / "job.yaml").write_text(yaml.safe_dump(values))
    return values


def test_a_language_model_answers_and_is_evaluated(tmp_path: Path) -> None:
    values = write(tmp_path, "responses")
    adaptrun("train", "job.yaml", cwd=tmp_path)
    rows = [json.loads(line) for line in Path(values["data"]["validation"]["held"]["source"]).read_text().splitlines()]
    jsonl(tmp_path / "other.jsonl", ({"q": row["prompt"], "a": row["response"]} for row in rows))
    columns = ["--column", "prompt=q", "--column", "response=a"]
    said = adaptrun(
        "evaluate", "runs/job", "--data", "other.jsonl", *columns, "--json", "--processes", 2, cwd=tmp_path
    ).stdout
    expected = json.loads((tmp_path / "runs/job/result.json").read_text())["sets"]["held"]
    assert json.loads(said)["metrics"] == pytest.approx(expected["after"], rel=1e-5)
    command = ["predict", "runs/job", "--data", "other.jsonl", "--column", "prompt=q", "-o", "out.csv"]
    adaptrun(*command, "--processes", 2, cwd=tmp_path)
    header, *lines = (tmp_path / "out.csv").read_text().splitlines()
    assert header == "row,response"
    assert [line.split(",")[0] for line in lines] == [str(n) for n in range(1, 10)]
    said = adaptrun(*command[:-4], "--column", "prompt", "-o", "out.csv", cwd=tmp_path, code=2).stderr
    assert "--column prompt: expected ROLE=NAME" in said


def test_words_and_images_are_predicted(tmp_path: Path) -> None:
    for name in ("tokens", "images"):
        (tmp_path / name).mkdir()
        values = write(tmp_path / name, name, max_steps=1)
        adaptrun("train", "job.yaml", cwd=tmp_path / name)
        source = values["data"]["validation"]["held"]["source"]
        adaptrun("predict", "runs/job", "--data", source, "-o", "out.jsonl", "--processes", 2, cwd=tmp_path / name)
    words = [block.splitlines() for block in Path(tmp_path / "tokens/2.conll").read_text().strip().split("\n\n")]
    found = [json.loads(line)["labels"] for line in (tmp_path / "tokens/out.jsonl").read_text().splitlines()]
    assert [len(labels) for labels in found] == [len(lines) for lines in words]
    rows = [json.loads(line) for line in (tmp_path / "images/out.jsonl").read_text().splitlines()]
    assert {row["label"] for row in rows} <= {"class-0", "class-1"}
    assert len(rows) == 9


def test_bad_data_end_the_command_before_any_rank_starts(tmp_path: Path) -> None:
    values = write(tmp_path, "chats, packed")
    file = Path(values["data"]["train"]["source"])
    file.write_text(file.read_text() + json.dumps({"messages": [{"role": "user", "content": WORDS[0]}]}) + "\n")
    said = adaptrun("train", "job.yaml", "--set", "launch.processes=2", cwd=tmp_path, code=2).stderr
    assert f"{file}, row 23: the chat has no turn of the role assistant" in said
    pictures(tmp_path, 7, 4)
    broken = tmp_path / "7" / "class-0" / "02.png"
    broken.write_bytes(broken.read_bytes()[:90])
    (tmp_path / "images").mkdir()
    values = write(tmp_path / "images", "images")
    said = adaptrun("train", "job.yaml", "--set", f"data.train={tmp_path}/7", cwd=tmp_path / "images", code=2).stderr
    assert f"row 2: the image {broken} is" in said
