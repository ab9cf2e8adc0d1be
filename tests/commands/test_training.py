"""`adaptrun train`: what a finished run has said and left behind."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from launcher.run.checkpoints import complete_checkpoints, step_of
from launcher.run.events import Evaluated, EventTail, Phase, Saved, Step
from launcher.run.folder import RunFolder
from tests.cli import ADAPTRUN, ENVIRONMENT, TORCHRUN, adaptrun, run
from tests.small_run import Trained, write_job
from tests.thinning import every


def test_the_folder_holds_what_the_design_says(trained: Trained) -> None:
    assert {path.name for path in trained.run.iterdir()} == {
        ".lock",
        "job.yaml",
        "plan.json",
        "prepared.json",
        "start.json",
        "environment.json",
        "metrics.jsonl",
        "result.json",
        "logs",
        "checkpoints",
        "model",
        "outcomes",
        "skeleton",
    }
    assert {path.name for path in (trained.run / "logs").iterdir()} == {"rank-0.log", "rank-1.log"}
    assert trained.run.is_symlink()
    assert trained.run.resolve().name.startswith("small-2")


def test_the_result_has_each_set_before_and_after(trained: Trained) -> None:
    result = json.loads((trained.run / "result.json").read_text())
    assert (result["status"], result["steps"], result["name"]) == ("done", 3 * 8, "small")
    assert {name: found["samples"] for name, found in result["sets"].items()} == {"near": 25, "far": 13}
    for found in result["sets"].values():
        for when in ("before", "after"):
            assert set(found[when]) == {"loss", "accuracy", "balanced_accuracy", "macro_f1", "matthews"}
            for metric, value in found[when].items():
                low, high = found[f"{when}_interval"][metric]
                assert low <= value <= high
    events = list(EventTail(trained.run / "metrics.jsonl").read())
    first = next(event for event in events if isinstance(event, Evaluated))
    assert first.step == 0
    assert first.metrics["near"] == result["sets"]["near"]["before"]


def test_the_best_weights_by_the_deciding_metric_become_the_model(trained: Trained) -> None:
    result = json.loads((trained.run / "result.json").read_text())
    events = [event for event in EventTail(trained.run / "metrics.jsonl").read() if isinstance(event, Evaluated)]
    decided = {e.step: e.metrics["near"]["accuracy"] for e in events if e.step and "near" in e.metrics}
    assert sorted(decided) == [8, 16, 24]
    assert decided[result["best_step"]] == max(decided.values()) == result["sets"]["near"]["after"]["accuracy"]


def test_every_step_is_an_event(trained: Trained) -> None:
    steps = [event for event in EventTail(trained.run / "metrics.jsonl").read() if isinstance(event, Step)]
    assert [step.step for step in steps] == list(range(1, 25))
    assert [step.samples for step in steps] == [8] * 7 + [4] + [8] * 7 + [4] + [8] * 7 + [4]
    assert [step.epoch for step in steps] == [0] * 8 + [1] * 8 + [2] * 8
    assert all(step.memory > 2**20 and step.seconds > 0 and step.tokens > step.samples for step in steps)
    phases = [event.name for event in EventTail(trained.run / "metrics.jsonl").read() if isinstance(event, Phase)]
    assert [phases[0], phases[-1]] == ["preparing", "done"]


def test_plain_lines_and_tables_without_a_terminal(trained: Trained) -> None:
    printed = trained.printed.stdout
    assert "\x1b" not in printed
    for part in ("2 × ", "ddp on cpu", "step 24/24", "samples/s", "tokens/s", "GiB", "left", "lr ", "loss "):
        assert part in printed
    assert "near: 25 samples, each counted once" in printed
    assert "far: 13 samples, each counted once" in printed
    assert "before" in printed
    assert f"model: {trained.run.resolve()}/model" in printed
    assert trained.printed.stderr == ""


def test_transformers_loads_the_model_with_nothing_missing(trained: Trained) -> None:
    model, found = AutoModelForSequenceClassification.from_pretrained(trained.run / "model", output_loading_info=True)
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.id2label == {0: "class-0", 1: "class-1"}


def test_the_saved_job_runs_again_to_the_same_result(trained: Trained, tmp_path: Path) -> None:
    adaptrun("train", trained.run / "job.yaml", "--set", f"launch.runs={tmp_path}", "--resume", "never", cwd=tmp_path)
    first, again = ((path / "model" / "model.safetensors").read_bytes() for path in (trained.run, tmp_path / "small"))
    assert first == again


def test_several_processes_by_hand_give_the_same_model(trained: Trained, tmp_path: Path, tiny_model: Path) -> None:
    write_job(tmp_path, tiny_model)
    done = run(TORCHRUN, "--nproc-per-node", 2, "-m", "launcher.worker", "job.yaml", cwd=tmp_path)
    assert "near: 25 samples, each counted once" in done.stdout
    first, again = (
        (path / "model" / "model.safetensors").read_bytes() for path in (trained.run, tmp_path / "runs/small")
    )
    assert first == again
    assert {path.name for path in (tmp_path / "runs/small/logs").iterdir()} == {"rank-0.log", "rank-1.log"}


@pytest.mark.parametrize(
    "engine",
    every(
        5,
        [
            "{name: fsdp}",
            "{name: deepspeed}",
            "{name: deepspeed, deepspeed: zero3}",
            "{name: deepspeed, deepspeed: zero2_offload}",
            "{name: deepspeed, deepspeed: zero3_offload}",
        ],
    ),
)
def test_a_sharded_run_leaves_the_same_model(engine: str, trained: Trained, tmp_path: Path, tiny_model: Path) -> None:
    write_job(tmp_path, tiny_model)
    settings = "--set", f"engine={engine}", "--set", "train.activation_checkpointing=true"
    adaptrun("train", "job.yaml", *settings, cwd=tmp_path)
    run = RunFolder(tmp_path / "runs" / "small")
    assert run.plan().engine in engine
    if "deepspeed" in engine:
        assert json.loads(run.deepspeed_file.read_text()) == run.plan().deepspeed
    expected, found = (
        load_file(path / "model" / "model.safetensors") for path in (trained.run, tmp_path / "runs/small")
    )
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name] - tensor).norm() <= 1e-3 * tensor.norm() + 1e-5
    results = [
        json.loads((path / "result.json").read_text())["sets"] for path in (trained.run, tmp_path / "runs/small")
    ]
    assert results[0]["near"]["after"]["accuracy"] == results[1]["near"]["after"]["accuracy"]


@pytest.mark.parametrize(
    "engine", ["{name: fsdp}", pytest.param("{name: deepspeed, deepspeed: zero3}", marks=pytest.mark.slow)]
)
def test_what_is_frozen_stays_as_it_came(engine: str, tmp_path: Path, tiny_model: Path) -> None:
    write_job(tmp_path, tiny_model)
    settings = "--set", f"engine={engine}", "--set", "train.max_steps=2", "--set", "model.frozen=['*embeddings.*']"
    adaptrun("train", "job.yaml", *settings, cwd=tmp_path)
    came, left = load_file(tiny_model / "model.safetensors"), load_file(tmp_path / "runs/small/model/model.safetensors")
    shared = {name: left[key] for name in came if (key := f"bert.{name.removeprefix('bert.')}") in left}
    assert {name for name, tensor in shared.items() if tensor.equal(came[name])} == {
        n for n in came if "embeddings" in n
    }


def test_one_process_needs_no_launcher(trained: Trained, tmp_path: Path, tiny_model: Path) -> None:
    write_job(tmp_path, tiny_model)
    adaptrun("train", "job.yaml", "--set", "launch.processes=1", "--set", "train.max_steps=2", cwd=tmp_path)
    assert RunFolder(tmp_path / "runs" / "small").plan().engine == "single"


def test_a_terminal_shows_bars_that_move(tmp_path: Path, tiny_model: Path) -> None:
    write_job(tmp_path, tiny_model)
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [ADAPTRUN, "train", "job.yaml", "--set", "launch.processes=1"],
        cwd=tmp_path,
        env=ENVIRONMENT | {"TERM": "xterm-256color"},
        stdout=slave,
        stderr=slave,
        stdin=slave,
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:  # Linux says so when the other side has closed
            break
        if not piece:
            break
        shown += piece
    os.close(master)
    assert process.wait() == 0
    text = shown.decode()
    assert "\x1b[2K" in text or "\x1b[1A" in text
    assert "━" in text
    assert "near: 25 samples, each counted once" in text


def test_a_dry_run_starts_nothing(tmp_path: Path, tiny_model: Path) -> None:
    write_job(tmp_path, tiny_model)
    shown = adaptrun("train", "job.yaml", "--dry-run", cwd=tmp_path).stdout
    assert shown == adaptrun("plan", "job.yaml", cwd=tmp_path).stdout
    assert "torchrun --standalone --nproc-per-node 2 -m launcher.worker" in shown
    assert not (tmp_path / "runs").exists()


def test_the_clock_saves_the_plateau_lowers_and_early_stopping_ends(tmp_path: Path, tiny_model: Path) -> None:
    hostile = tmp_path / 'it\'s a "strange" $place é'
    hostile.mkdir()
    write_job(hostile, tiny_model)
    settings = [
        "launch.processes=1",
        "train.optimizer={name: sgd, lr: 1.0e-9, momentum: 0.9}",
        "train.schedule={name: plateau, patience: 1, factor: 0.1}",
        "train.early_stopping={patience: 3}",
        "train.epochs=50",
        "checkpoint={every_steps: 1000, every_minutes: 1.0e-9, keep: 2}",
    ]
    adaptrun("train", "job.yaml", *(word for setting in settings for word in ("--set", setting)), cwd=hostile)
    folder = RunFolder(hostile / "runs" / "small")
    events = list(EventTail(folder.events_file).read())
    steps = [event for event in events if isinstance(event, Step)]
    assert len(steps) == 8 * 4, "one evaluation that is the best and three that are not"
    rates = [steps[index].lr for index in (0, 8, 16, 24)]
    assert rates == pytest.approx([1e-9, 1e-9, 1e-10, 1e-11])
    assert [event.step for event in events if isinstance(event, Saved)] == list(range(1, 33))
    assert [step_of(path) for path in complete_checkpoints(folder.checkpoints)] == [8, 31, 32]
    result = json.loads(folder.result_file.read_text())
    assert (result["status"], result["steps"], result["best_step"]) == ("done", 32, 8)
