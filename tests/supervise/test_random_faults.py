"""Whatever befalls one rank at a random step: the group is down within the time-out, and that rank and kind are named.

More rounds than the few of each run: `pytest -m slow tests/supervise/test_random_faults.py --rounds 100`.
"""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path

import psutil
import pytest

from tests.cli import PATIENCE, assert_gone, ranks_of, start, wait_until
from tests.small_run import write_job

OWN = """\
import json, os, resource, signal, time, torch
from transformers import AutoModelForSequenceClassification

def build(labels):
    model = AutoModelForSequenceClassification.from_pretrained({model!r}, num_labels=len(labels))
    fault = json.load(open({plan!r}))
    calls = 0
    def strike(module, inputs):
        nonlocal calls
        calls += module.training
        if not module.training or calls < fault["call"] or os.environ["RANK"] != fault["rank"]:
            return
        if fault["name"] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault["name"] == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif fault["name"] == "hang":
            time.sleep(600)
        elif fault["name"] == "raise":
            raise ValueError("a mistake in the code")
        elif fault["name"] == "memory":
            raise torch.OutOfMemoryError("injected")
        elif fault["name"] == "disk":
            resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
    def spoil(module, inputs, output):
        if module.training and calls >= fault["call"] and os.environ["RANK"] == fault["rank"]:
            return output * float("nan")
    model.register_forward_pre_hook(strike)
    if fault["name"] == "nan":
        model.classifier.register_forward_hook(spoil)
    return model
"""
KINDS = {
    "kill": ("SIGKILL", "killed by the system"),
    "stop": ("Hung", "no progress"),
    "hang": ("Hung", "no progress"),
    "raise": ("ValueError", "code"),
    "memory": ("OutOfMemory", "out of memory"),
    "nan": ("NotFinite", "NaN or infinite"),
    "disk": ("CheckpointError", "disk"),
}
"""What the page says of each: the error, and its kind."""
SETS = {
    "train.epochs": 300,
    "train.micro_batch_size": 2,
    "train.discard_limit": 0,
    "checkpoint.every_steps": 5,
    "validation.every": 7,
    "launch.patience": 0.05,
    "launch.max_restarts": 0,
}


def prepare(folder: Path, model: Path) -> None:
    job = write_job(folder, model)
    (folder / "own.py").write_text(OWN.format(model=str(model), plan=str(folder / "fault.json")))
    own = f"{{pretrained: own.py:build, tokenizer: {model}}}"
    job.write_text(job.read_text().replace(f"{{pretrained: {model}}}", own))


def strike(folder: Path, name: str, rank: int, call: int) -> None:
    """One run, one fault; what it leaves is looked at and removed."""
    shutil.rmtree(folder / "runs", ignore_errors=True)
    (folder / "fault.json").write_text(json.dumps({"name": name, "rank": str(rank), "call": call}))
    sets = [word for path, value in SETS.items() for word in ("--set", f"{path}={value}")]
    launcher = start("train", "job.yaml", *sets, cwd=folder)
    ranks: list[psutil.Process] = []
    wait_until(lambda: len(ranks_of(launcher)) == 2, launcher)
    ranks += ranks_of(launcher)
    assert launcher.wait(PATIENCE) == 1, (folder / "stderr").read_text()
    assert_gone(ranks)
    (page,) = (folder / "runs").glob("*/failure.txt")
    text = page.read_text()
    error, kind = KINDS[name]
    assert re.match(rf"rank {rank} on \S+ failed first, at [-0-9: ]+: {error}: ", text), text
    assert f"\nkind: {kind}\n" in text, text
    assert f"rank {1 - rank} on " in text or name in ("nan", "disk"), text
    assert "what to do: " in text or name == "raise", text


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_the_rank_and_the_kind_of_a_random_fault_are_named(tmp_path: Path, tiny_model: Path, rounds: int) -> None:
    prepare(tmp_path, tiny_model)
    draw = random.Random()
    for number in range(rounds):
        name = list(KINDS)[number % len(KINDS)]
        rank, call = draw.randrange(2), draw.randint(4, 60)
        print(f"round {number + 1} of {rounds}: {name} at call {call} of rank {rank}", flush=True)
        strike(tmp_path, name, rank, call)
