"""`adaptrun selfcheck`: the same job gives the same numbers in every world and split."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.errors import ExitCode
from launcher.start import selfcheck
from tests.commands import adaptrun


def test_every_world_and_split_agrees_with_one_process(tmp_path: Path) -> None:
    report = json.loads(adaptrun("selfcheck", "--json", cwd=tmp_path).stdout)
    assert report["max_relative_difference"] <= 1e-5
    assert report["adamw_loss_difference"] <= 1e-4
    cases = {case["case"]: case for case in report["cases"]}
    ways = {tuple(name.split("-")[1:3]) for name in cases}
    assert ways == {("single", "world1"), *((e, w) for e in ("ddp", "fsdp") for w in ("world2", "world3"))}
    assert all(case["steps"] == case["clipped"] == 20 for case in cases.values())
    sgd = [case for name, case in cases.items() if name.startswith("sgd")]
    assert report["max_relative_difference"] == max(
        max(case["loss"], case["gradient_norm"], case["weights"]) for case in sgd
    )
    assert report["max_relative_difference"] > 0


def test_a_difference_past_the_bound_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    far = selfcheck.Difference("sgd-ddp-world2-micro8", 20, 20, loss=2e-5, gradient_norm=0.0, weights=0.0)
    near = selfcheck.Difference("adamw-ddp-world2-micro8", 20, 20, loss=2e-5, gradient_norm=1.0, weights=1.0)
    monkeypatch.setattr(selfcheck, "_differences", lambda folder: iter([near, far]))
    assert selfcheck.run_selfcheck(as_json=False) == ExitCode.FAILED
    shown = capsys.readouterr().out
    assert "differs" in shown
    monkeypatch.setattr(
        selfcheck, "_differences", lambda folder: iter([near, selfcheck.Difference("sgd", 1, 1, 0, 0, 0)])
    )
    assert selfcheck.run_selfcheck(as_json=True) == ExitCode.DONE
