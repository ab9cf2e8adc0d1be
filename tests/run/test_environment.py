"""What is kept of the surroundings, and what is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from launcher.run.environment import redacted, write_environment
from launcher.run.folder import RunFolder


def test_versions_hardware_and_commit_are_kept(tmp_path: Path) -> None:
    write_environment(RunFolder(tmp_path))
    found = json.loads((tmp_path / "environment.json").read_text())
    assert found["packages"]["torch"] == torch.__version__
    assert found["cores"] >= 1
    assert found["commit"] is None or len(found["commit"].removesuffix("-dirty")) == 40


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("--set my.token=abc123 --set train.epochs=3", "--set my.token=[redacted] --set train.epochs=3"),
        ("HF_TOKEN=hf_abcdefghijk", "HF_TOKEN=[redacted]"),
        ("use hf_abcdefghijk now", "use [redacted] now"),
        ("PASSWORD=x secret_key=y", "PASSWORD=[redacted] secret_key=[redacted]"),
        ("postgresql://me:word@host/runs", "postgresql://[redacted]@host/runs"),
        ("see https://host/a@b", "see https://host/a@b"),
        ("keyboard tokens", "keyboard tokens"),
    ],
)
def test_secrets_do_not_get_in(text: str, kept: str) -> None:
    assert redacted(text) == kept
