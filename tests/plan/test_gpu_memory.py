"""On GPUs the peak that is planned is about the peak that the allocator measures. `pytest -m gpu` runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launcher.commands.selfcheck import engine_section
from launcher.plan.hardware import find_hardware
from launcher.run.events import EventTail, Step
from launcher.run.folder import RunFolder
from tests.cli import adaptrun
from tests.small_run import write_job
from tests.tiny import WORDS, tiny_model_folder

GPUS = find_hardware().gpus
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not GPUS, reason="the NVIDIA driver names no GPU"),
]
LENGTH, SAMPLES = 64, 256


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 100 million parameters, so that what a driver takes for itself is small beside them."""
    return tiny_model_folder(tmp_path_factory.mktemp("gpu") / "model", layers=8, hidden=1024)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("engine", ["single", "ddp", "fsdp", "zero1", "zero2", "zero3"])
def test_the_peak_is_within_a_tenth_of_the_plan(engine: str, precision: str, model: Path, tmp_path: Path) -> None:
    processes = 1 if engine == "single" else len(GPUS)
    if engine == "ddp" and processes == 1:
        pytest.skip("ddp needs two GPUs")
    write_job(tmp_path, model)
    rows = (f"{' '.join(WORDS[number % 90 :][:70])},class-{number % 2}\n" for number in range(SAMPLES))
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(rows))
    sets: dict[str, Any] = {
        "engine": engine_section(engine),
        "launch": {"processes": processes, "device": "cuda"},
        "train.max_length": LENGTH,
        "train.precision": precision,
        "train.global_batch_size": 32 * processes,
        "train.micro_batch_size": 32,
        "train.max_steps": 6,
    }
    words = [word for name, value in sets.items() for word in ("--set", f"{name}={value}")]
    adaptrun("train", "job.yaml", *words, cwd=tmp_path)
    run = RunFolder((tmp_path / "runs" / "small").resolve())
    planned, events = run.plan().memory, EventTail(run.events_file).read()
    assert planned is not None
    peak = max(event.memory for event in events if isinstance(event, Step))
    print(f"planned {planned}; measured {peak / 2**20:.0f} MiB, {peak / planned.total:.3f} of it")
    assert peak == pytest.approx(planned.total, rel=0.1)
