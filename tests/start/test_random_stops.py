"""Stopped at random moments, from loading to publishing, a run ends with 75 each time, and at last with the same bits.

More rounds than the few of each run: `pytest -m slow tests/start/test_random_stops.py --rounds 50`.
"""

from __future__ import annotations

import random
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.commands import adaptrun, assert_gone, start
from tests.start.test_failures import mischievous

SETS = {"train.epochs": 4, "checkpoint.every_steps": 3, "validation.every": 5, "checkpoint.result": "last"}
COMMAND = ["train", "job.yaml", *(word for path, value in SETS.items() for word in ("--set", f"{path}={value}"))]


def prepare(folder: Path, model: Path) -> None:
    mischievous(folder, model, "time.sleep(0.03)")


def weights(folder: Path) -> bytes:
    return (folder / "runs" / "small" / "model" / "model.safetensors").read_bytes()


def phase_of(folder: Path) -> str:
    """What the run was last heard to be doing."""
    lines = [line for file in (folder / "runs").glob("*/metrics.jsonl") for line in file.read_text().splitlines()]
    phases = [line.split('"name": "')[1].split('"')[0] for line in lines if '"kind": "phase"' in line]
    return phases[-1] if phases else "starting"


def stopped_after(folder: Path, seconds: float) -> tuple[int, str]:
    """Start the run, ask it to stop after so long: its exit code, and what it was doing."""
    launcher = start(*COMMAND, cwd=folder)
    time.sleep(seconds)
    doing, everything = phase_of(folder), []
    if launcher.poll() is None:
        everything = psutil.Process(launcher.pid).children(recursive=True)
        launcher.send_signal(signal.SIGTERM)
    code = launcher.wait(90)
    assert_gone(everything)
    return code, doing


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_stopped_at_random_moments_it_ends_with_the_same_weights(tmp_path: Path, tiny_model: Path, rounds: int) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    prepare(whole, tiny_model)
    begun = time.monotonic()
    adaptrun(*COMMAND, cwd=whole)
    seconds, draw = time.monotonic() - begun, random.Random()
    folder = tmp_path / "disturbed"
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("runs", "cache"))
    for number in range(rounds):
        code, doing = stopped_after(folder, draw.uniform(0.0, seconds))
        print(f"round {number + 1} of {rounds}: {code} while {doing}", flush=True)
        began = any((folder / "runs").glob("small-*"))
        assert code in ((0, 75) if began else (75, -signal.SIGTERM)), (folder / "stderr").read_text()
        if code == 0:
            assert weights(folder) == weights(whole)
            shutil.rmtree(folder / "runs")
    adaptrun(*COMMAND, cwd=folder)
    assert weights(folder) == weights(whole)
