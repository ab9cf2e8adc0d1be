"""`adaptrun selfcheck`: the same job gives the same numbers in every world and split, on every engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.commands import selfcheck
from launcher.errors import ExitCode
from tests.cli import adaptrun


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_engine_world_and_split_agrees_with_one_process(tmp_path: Path) -> None:
    report = json.loads(adaptrun("selfcheck", "--json", cwd=tmp_path).stdout)
    assert report["max_relative_difference"] <= 1e-5
    assert report["adamw_loss_difference"] <= 1e-4
    cases = {case["case"]: case for case in report["cases"]}
    ways = {tuple(name.split("-")[1:3]) for name in cases}
    sharding = ("fsdp", "zero1", "zero2", "zero3")
    everywhere = {(engine, f"world{size}") for engine in sharding for size in (1, 2, 3)}
    assert ways == everywhere | {("single", "world1"), ("ddp", "world2"), ("ddp", "world3")}
    assert report["engines"] == sorted(["single", "ddp", *sharding])
    assert {case["kind"] for case in cases.values()} == {"sgd", "adamw", "bf16"}
    assert 0 < report["bf16_loss_difference"] < 0.01
    assert all(case["steps"] == case["clipped"] == 20 for case in cases.values())
    sgd = [case for name, case in cases.items() if name.startswith("sgd")]
    assert report["max_relative_difference"] == max(
        max(case["loss"], case["gradient_norm"], case["weights"]) for case in sgd
    )
    assert report["max_relative_difference"] > 0


def test_a_difference_past_the_bound_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    far = selfcheck.Difference("sgd-ddp-world2-micro8", "sgd", 20, 20, loss=2e-5, gradient_norm=0.0, weights=0.0)
    near = selfcheck.Difference("adamw-ddp-world2-micro8", "adamw", 20, 20, loss=2e-5, gradient_norm=1.0, weights=1.0)
    rough = selfcheck.Difference("bf16-zero3-world2-micro8", "bf16", 1, 1, 0.1, 0.1, 0.1)
    monkeypatch.setattr(selfcheck, "_differences", lambda folder: iter([near, far, rough]))
    assert selfcheck.run_selfcheck(as_json=False) == ExitCode.FAILED
    shown = capsys.readouterr().out
    assert "differs" in shown
    nan = float("nan")
    lost = selfcheck.Difference("sgd-zero3-world2-micro8", "sgd", 20, 20, loss=0.0, gradient_norm=0.0, weights=nan)
    monkeypatch.setattr(selfcheck, "_differences", lambda folder: iter([near, lost, rough]))
    assert selfcheck.run_selfcheck(as_json=True) == ExitCode.FAILED
    assert '"max_relative_difference": NaN' in capsys.readouterr().out
    same = selfcheck.Difference("sgd-zero3-world2-micro8", "sgd", 1, 1, 0, 0, 0)
    monkeypatch.setattr(selfcheck, "_differences", lambda folder: iter([near, same, rough]))
    assert selfcheck.run_selfcheck(as_json=True) == ExitCode.DONE
