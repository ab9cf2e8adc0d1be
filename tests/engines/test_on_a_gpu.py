"""On a GPU: the numbers of a CPU with every engine, runs that move from one to the other, frozen weights in 4 bits.

`pytest -m gpu` runs it, with as many processes as there are GPUs.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from launcher.commands.selfcheck import engine_section
from launcher.plan.hardware import find_hardware
from launcher.run.events import EventTail, Step
from launcher.run.folder import RunFolder
from launcher.run.results import Result
from tests.adapt.runs import adapters
from tests.cli import adaptrun
from tests.small_run import write_job

GPUS = find_hardware().gpus
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not GPUS, reason="the NVIDIA driver names no GPU"),
]
STEPS = 8
SGD = {"optimizer": {"name": "sgd", "lr": 0.5, "momentum": 0.9}, "schedule": {"name": "constant"}}
ENGINES = ["single" if len(GPUS) == 1 else "ddp", "fsdp", "zero1", "zero2", "zero3"]


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path) -> Path:
    write_job(tmp_path, tiny_model)
    return tmp_path


def trained(folder: Path, name: str, engine: str, device: str, **changes: Any) -> RunFolder:
    """A finished run, or what remains of one, resumed."""
    sets: dict[str, Any] = {
        "name": name,
        "model.dropout": 0.0,
        "engine": engine_section(engine),
        "launch": {"processes": len(GPUS) if device == "cuda" else 1, "device": device},
        "train": {
            "max_steps": STEPS,
            "global_batch_size": 8,
            "micro_batch_size": 3,
            "max_length": 32,
            "precision": "fp32",
            **SGD,
        },
        "checkpoint": {"every_steps": STEPS // 2, "keep": 9},
        **changes,
    }
    words = [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]
    adaptrun("train", "job.yaml", *words, cwd=folder)
    return RunFolder((folder / "runs" / name).resolve())


def losses(run: RunFolder) -> list[float]:
    return [event.loss for event in EventTail(run.events_file).read() if isinstance(event, Step)]


@pytest.mark.parametrize("engine", ENGINES)
def test_each_engine_gives_the_numbers_of_a_cpu(engine: str, folder: Path) -> None:
    on_cpu, on_gpu = trained(folder, "on-cpu", "single", "cpu"), trained(folder, "on-gpu", engine, "cuda")
    assert on_gpu.plan().device == "cuda"
    assert len(losses(on_gpu)) == STEPS
    assert losses(on_gpu) == pytest.approx(losses(on_cpu), rel=1e-4)
    expected, found = (Result.read(run.result_file).sets for run in (on_cpu, on_gpu))
    assert {name: each.after for name, each in found.items()} == {
        name: pytest.approx(each.after, rel=1e-3) for name, each in expected.items()
    }


@pytest.mark.parametrize(("first", "then"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_run_moves_between_a_gpu_and_a_cpu(first: str, then: str, folder: Path) -> None:
    engines = {"cuda": "fsdp", "cpu": "single"}
    run = trained(folder, "moving", engines[first], first)
    before = losses(run)
    for lost in (run.model, run.checkpoints / f"step-{STEPS:08d}"):
        shutil.rmtree(lost)
    run.result_file.unlink()
    again = trained(folder, "moving", engines[then], then)
    assert again.path == run.path
    assert losses(again)[STEPS:] == pytest.approx(before[STEPS // 2 :], rel=1e-4)


def test_frozen_weights_in_4_bits_stay_near_and_are_published(folder: Path) -> None:
    from peft import PeftConfig

    lora = {"kind": "lora", "rank": 4}
    whole, small = (
        trained(folder, name, ENGINES[0], "cuda", adapt={"adapters": {**lora, "quantised": quantised}})
        for name, quantised in (("whole", False), ("small", "4bit"))
    )
    assert len(losses(small)) == STEPS
    assert losses(small) != losses(whole)
    assert losses(small) == pytest.approx(losses(whole), rel=0.1)
    assert max(abs(tensor).max() for name, tensor in adapters(small.model).items() if "lora_B" in name) > 1e-4
    assert PeftConfig.from_pretrained(str(small.model)).r == 4
    assert Result.read(small.result_file).verdict is not None
    adaptrun("evaluate", small.path, "--data", "near.csv", cwd=folder)
