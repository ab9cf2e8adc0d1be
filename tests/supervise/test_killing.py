"""A run that is killed anywhere ends, once it is started again, as if it had not been."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections import defaultdict
from pathlib import Path

import psutil
import pytest

from launcher.run.checkpoints import complete_checkpoints, incomplete_checkpoints, step_of
from launcher.run.events import EventTail, Step
from launcher.run.folder import RunFolder
from tests.cli import adaptrun, assert_gone, ranks_of, start, wait_until
from tests.tiny import WORDS

SAMPLES, BATCH, EPOCHS = 45, 6, 5
STEPS = EPOCHS * 8

OWN = """\
import json, os, time
from transformers import AutoModelForSequenceClassification

def build(labels):
    model = AutoModelForSequenceClassification.from_pretrained({model!r}, num_labels=len(labels))
    seen = open(f"seen-{{os.getppid()}}-{{os.environ.get('RANK', '0')}}.jsonl", "a", buffering=1)
    def record(module, args, inputs):
        if module.training:
            seen.write(json.dumps(inputs["input_ids"][:, :3].tolist()) + "\\n")
    model.register_forward_pre_hook(record, with_kwargs=True)
    if os.path.exists("slow-disk"):
        sync = os.fsync
        os.fsync = lambda file: (time.sleep(0.1), sync(file))
    return model
"""
"""A model that keeps a record of the samples it trains on, on a disk that can be slow."""


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path) -> Path:
    """A job whose every text begins with two words of its own."""
    draw = random.Random(0)
    rows = [
        f"{WORDS[n]} {WORDS[-n]} {' '.join(draw.choices(WORDS, k=draw.randint(0, 12)))},{n % 2}" for n in range(SAMPLES)
    ]
    for name, part in (("train.csv", rows), ("dev.csv", rows[:9])):
        (tmp_path / name).write_text("text,label\n" + "\n".join(part) + "\n")
    (tmp_path / "own.py").write_text(OWN.format(model=str(tiny_model)))
    (tmp_path / "job.yaml").write_text(
        "{name: small, task: text-classification, "
        f"model: {{pretrained: 'own.py:build', tokenizer: '{tiny_model}'}}, "
        "data: {train: train.csv, validation: dev.csv, allow_leakage: true, cache: cache}, "
        f"train: {{epochs: {EPOCHS}, global_batch_size: {BATCH}, max_length: 32, optimizer: {{lr: 1e-3}}, "
        "micro_batch_size: 2, early_stopping: {patience: 100}}, "
        "validation: {every: 7}, checkpoint: {every_steps: 3, result: last}, "
        "launch: {processes: 2, device: cpu, max_restarts: 0}}"
    )
    return tmp_path


def copy_of(folder: Path, name: str) -> Path:
    """The same job beside it, with a cache and runs of its own."""
    return shutil.copytree(folder, folder.parent / f"{folder.name}-{name}")


def weights(folder: Path) -> bytes:
    return (folder / "runs" / "small" / "model" / "model.safetensors").read_bytes()


def the_run(folder: Path) -> RunFolder:
    (path,) = [path for path in (folder / "runs").glob("small-*") if not path.is_symlink()]
    return RunFolder(path)


def steps_of(folder: Path) -> dict[int, Step]:
    """Each step's last event."""
    return {event.step: event for event in EventTail(the_run(folder).events_file).read() if isinstance(event, Step)}


def filler_of(folder: Path) -> str:
    """How the record has the shortest sample, on which a rank without any computes with weight zero."""
    texts = [line.partition(",")[0].split() for line in (folder / "train.csv").read_text().splitlines()[1:]]
    return str([2, *(5 + WORDS.index(word) for word in min(texts, key=len)[:2])])


def seen_by_step(folder: Path, accumulation: int, first: int) -> dict[int, list[str]]:
    """What the ranks of the latest start trained on in each step, from the records of the model itself."""
    files = sorted(folder.glob("seen-*.jsonl"), key=lambda file: file.stat().st_mtime)
    start_of = files[-1].name.split("-")[1]
    found: dict[int, list[str]] = defaultdict(list)
    for file in folder.glob(f"seen-{start_of}-*.jsonl"):
        for number, line in enumerate(file.read_text().splitlines()):
            found[first + number // accumulation] += [str(row) for row in json.loads(line)]
    filler, samples = filler_of(folder), [BATCH] * 7 + [SAMPLES - 7 * BATCH]
    for step, rows in found.items():
        for _ in range(len(rows) - samples[(step - 1) % 8]):
            rows.remove(filler)
    return {step: sorted(rows) for step, rows in found.items()}


def kill_when(folder: Path, steps: int, victim: str, during_save: bool, arguments: list[str]) -> None:
    """Start the job and kill one rank, or everything, once it has done so many steps (and is saving)."""
    launcher = start("train", "job.yaml", *arguments, cwd=folder, own_server=victim == "the whole group")

    def is_time() -> bool:
        for run in (folder / "runs").glob("small-*"):
            text = (run / "metrics.jsonl").read_text() if (run / "metrics.jsonl").exists() else ""
            if text.count('"kind": "step"') >= steps:
                return not during_save or any(run.glob("checkpoints/*.partial-*"))
        return False

    wait_until(is_time, launcher)
    ranks = ranks_of(launcher)
    everything = [psutil.Process(launcher.pid), *psutil.Process(launcher.pid).children(recursive=True)]
    for process in everything if victim == "the whole group" else [ranks[1]]:
        os.kill(process.pid, signal.SIGKILL)
    assert launcher.wait(90) == (-signal.SIGKILL if victim == "the whole group" else 1)
    assert_gone(ranks)
    assert not (the_run(folder).path / "result.json").exists()


def kill_and_go_on(folder: Path, reference: bytes, draw: random.Random, victim: str, during_save: bool) -> None:
    kill_when(folder, draw.randint(7, STEPS - 10), victim, during_save, [])
    run = the_run(folder)
    assert complete_checkpoints(run.checkpoints)
    if during_save:
        assert incomplete_checkpoints(run.checkpoints)
    if victim == "one rank":
        assert "SIGKILL" in run.failure_file.read_text()
    said = adaptrun("train", "job.yaml", cwd=folder).stdout
    assert f"resuming from {complete_checkpoints(run.checkpoints)[0].name[:5]}" in said
    assert ("skipped the incomplete step-" in said) or not during_save
    assert not run.failure_file.exists()
    assert sorted(steps_of(folder)) == list(range(1, STEPS + 1))
    assert weights(folder) == reference


@pytest.fixture
def reference(folder: Path) -> bytes:
    """The weights of a run that nobody killed."""
    whole = copy_of(folder, "whole")
    adaptrun("train", "job.yaml", cwd=whole)
    return weights(whole)


def test_a_killed_run_goes_on_to_the_same_bits(folder: Path, reference: bytes) -> None:
    (folder / "slow-disk").touch()
    kill_and_go_on(copy_of(folder, "group"), reference, random.Random(0), "the whole group", during_save=True)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("during_save", [False, True])
@pytest.mark.parametrize("victim", ["one rank", "the whole group"])
def test_killed_at_many_moments_it_goes_on_to_the_same_bits(
    folder: Path, reference: bytes, victim: str, during_save: bool
) -> None:
    draw = random.Random()
    seed = draw.randrange(10**6)
    print(f"seed {seed}")
    if during_save:
        (folder / "slow-disk").touch()
    for turn in range(2):
        kill_and_go_on(copy_of(folder, f"{turn}"), reference, random.Random(seed + turn), victim, during_save)


@pytest.mark.slow
def test_it_goes_on_with_other_ranks_at_the_very_next_sample(folder: Path) -> None:
    no_dropout = ["--set", "model.dropout=0", "--set", "train.clip_norm=0.5"]
    whole = copy_of(folder, "whole")
    adaptrun("train", "job.yaml", *no_dropout, cwd=whole)
    expected, samples = (
        steps_of(whole),
        seen_by_step(whole, RunFolder(the_run(whole).path).plan().split.accumulation, 1),
    )
    assert all(len(rows) == expected[step].samples for step, rows in samples.items())
    kill_when(folder, 12, "the whole group", False, no_dropout)
    killed = shutil.move(folder / "runs", folder / "killed")
    for processes in (1, 3):
        shutil.rmtree(folder / "runs", ignore_errors=True)
        shutil.copytree(killed, folder / "runs")
        first = step_of(complete_checkpoints(the_run(folder).checkpoints)[-1]) + 1
        assert first % 8 != 1, "in the middle of an epoch"
        adaptrun("train", "job.yaml", *no_dropout, "--set", f"launch.processes={processes}", cwd=folder)
        assert the_run(folder).plan().processes == processes
        found = seen_by_step(folder, the_run(folder).plan().split.accumulation, first)
        assert found == {step: rows for step, rows in samples.items() if step >= first}
        for step in range(first, STEPS + 1):
            assert steps_of(folder)[step].loss == pytest.approx(expected[step].loss, rel=1e-4)
            assert steps_of(folder)[step].lr == expected[step].lr
