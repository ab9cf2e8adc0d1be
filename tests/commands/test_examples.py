"""The example jobs of docs/guides/domains.md run on the demo's texts with its model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from launcher.commands.demo_data import write_demo_data
from tests.cli import adaptrun

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_examples_of_other_domains_run(tmp_path: Path) -> None:
    write_demo_data(tmp_path / "data")
    few = ["--set", "train.max_steps=4", "--set", "data.cache=cache"]
    for name in ("film-reviews", "dann", "udalm", "dapt", "shot"):
        shutil.copy(EXAMPLES / f"{name}.yaml", tmp_path)
        short = ["--set", "adapt.max_steps=3"] if name == "dapt" else []
        adaptrun("train", f"{name}.yaml", *few, *short, cwd=tmp_path)
    for name in ("dann", "udalm", "dapt", "shot"):
        result = json.loads((tmp_path / f"runs/tweets-{name}/result.json").read_text())
        assert result["status"] == "done"
        assert result["steps"] == (7 if name == "dapt" else 4)
        assert result["sets"]["tweets"]["samples"] == 400
