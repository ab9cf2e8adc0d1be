"""Stopped at random moments, from loading to publishing, a run ends with 75 each time, and at last with the same bits.

More rounds than the few of each run: `pytest -m slow tests/supervise/test_random_stops.py --rounds 50`.
"""

from __future__ import annotations

import random
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from launcher.run.events import EventTail, Phase
from tests.cli import adaptrun, assert_gone, start
from tests.supervise.test_failures import mischievous

SETS = {"train.epochs": 10, "checkpoint.every_steps": 3, "validation.every": 5, "checkpoint.result": "last"}
COMMAND = ["train", "job.yaml", *(word for path, value in SETS.items() for word in ("--set", f"{path}={value}"))]
PHASES = ("starting", "preparing", "loading", "evaluating", "training", "saving", "publishing")


def weights(folder: Path) -> bytes:
    return (folder / "runs" / "small" / "model" / "model.safetensors").read_bytes()


def phases_since(folder: Path, begun: float) -> list[str]:
    """What the run has entered since then."""
    files = list((folder / "runs").glob("small-*/metrics.jsonl"))
    events = [event for file in files for event in EventTail(file).read()]
    return ["starting", *(event.name for event in events if isinstance(event, Phase) and event.time >= begun)]


def stopped_in(folder: Path, phase: str, delay: float) -> tuple[int, str]:
    """Start the run, and ask it to stop a moment after it entered a phase: its exit code, and what it was doing."""
    begun = time.time()
    launcher = start(*COMMAND, cwd=folder)
    while launcher.poll() is None and phase not in phases_since(folder, begun):
        time.sleep(0.01)
    time.sleep(delay)
    doing, everything = phases_since(folder, begun)[-1], []
    with suppress(psutil.NoSuchProcess):
        everything = psutil.Process(launcher.pid).children(recursive=True)
        launcher.send_signal(signal.SIGTERM)
    code = launcher.wait(90)
    assert_gone(everything)
    return code, doing


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_stopped_at_random_moments_it_ends_with_the_same_weights(tmp_path: Path, tiny_model: Path, rounds: int) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "disturbed"
    whole.mkdir()
    mischievous(whole, tiny_model, "time.sleep(0.03)")
    shutil.copytree(whole, folder)
    adaptrun(*COMMAND, cwd=whole)
    draw = random.Random()
    for number in range(rounds):
        phase, delay = PHASES[number % len(PHASES)], draw.choice([0.0, draw.uniform(0.0, 1.0)])
        code, doing = stopped_in(folder, phase, delay)
        print(f"round {number + 1} of {rounds}: {code} while {doing}, {delay:.2f} s after it was {phase}", flush=True)
        ends = (75, -signal.SIGTERM) if doing == "starting" else (0, 75)  # until Python listens, nobody hears a signal
        assert code in ends, (folder / "stderr").read_text()
        if code == 0:
            assert weights(folder) == weights(whole)
            shutil.rmtree(folder / "runs")
    adaptrun(*COMMAND, cwd=folder)
    assert weights(folder) == weights(whole)
