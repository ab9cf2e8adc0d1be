"""A rank that runs out of memory costs nothing: smaller micro-batches, the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from launcher.errors import OutOfMemory
from launcher.run.checkpoints import complete_checkpoints
from launcher.run.folder import RunFolder
from launcher.worker.training.loop import _out_of_memory_named
from tests.cli import adaptrun
from tests.supervise.test_failures import mischievous

OWN = """\
import os, torch
from transformers import AutoModelForSequenceClassification

def build(labels):
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained({model!r}, num_labels=len(labels))
    calls = 0
    def before(module, args, kwargs):
        nonlocal calls
        calls += module.training
        tokens = kwargs["input_ids"].numel()
        if module.training and calls > {calm} and tokens > {most} and os.environ.get("RANK", "0") == {rank!r}:
            raise torch.OutOfMemoryError(f"cannot hold {{tokens}} tokens")
    model.register_forward_pre_hook(before, with_kwargs=True)
    return model
"""


def train(
    folder: Path, model: Path, engine: dict[str, str], *, most: int, calm: int = 0, code: int = 0, **extra: str
) -> Any:
    """Train where the last rank cannot hold more than `most` tokens at once, after `calm` forward passes."""
    mischievous(folder, model, "pass")
    (folder / "own.py").write_text(OWN.format(model=str(model), most=most, calm=calm, rank="1"))
    sets = {
        "engine": json.dumps(engine),
        "train.epochs": "2",
        "model.dropout": "0",
        "checkpoint.every_steps": "3",
        "train.optimizer": json.dumps({"name": "sgd", "lr": 0.1, "momentum": 0.9}),
    } | extra
    arguments = [word for name, value in sets.items() for word in ("--set", f"{name}={value}")]
    return adaptrun("train", "job.yaml", *arguments, cwd=folder, code=code)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "runs" / "small" / "model" / "model.safetensors")


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param({"name": "ddp"}, id="ddp"),
        pytest.param({"name": "fsdp"}, id="fsdp", marks=pytest.mark.slow),
        *(
            pytest.param({"name": "deepspeed", "deepspeed": stage}, id=stage, marks=pytest.mark.slow)
            for stage in ("zero1", "zero2", "zero3")
        ),
    ],
)
def test_a_rank_that_runs_out_gets_smaller_micro_batches_and_the_same_weights(
    engine: dict[str, str], tiny_model: Path, tmp_path: Path
) -> None:
    for name in ("whole", "short"):
        (tmp_path / name).mkdir()
    train(tmp_path / "whole", tiny_model, engine, most=10**9)
    said = train(tmp_path / "short", tiny_model, engine, most=45, calm=9)
    run = RunFolder((tmp_path / "short" / "runs" / "small").resolve())
    before, after = RunFolder((tmp_path / "whole" / "runs" / "small").resolve()).plan(), run.plan()
    assert after.split.micro_batch < before.split.micro_batch
    assert after.micro_batch_limit == after.split.micro_batch
    assert "out of memory; resuming from" in said.stdout
    assert said.stderr == "", "a rank that failed on the way is no failure of the run"
    last = json.loads((complete_checkpoints(run.checkpoints)[-1] / "progress.json").read_text())
    assert last["micro_batch_limit"] == after.split.micro_batch
    assert not run.failure_file.exists()
    expected = weights(tmp_path / "whole")
    for name, tensor in weights(tmp_path / "short").items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_however_it_is_said_it_is_known(error: Exception) -> None:
    with pytest.raises(OutOfMemory, match="step 3 did not fit with micro-batches of 8"), _out_of_memory_named(8, 2):
        raise error
    with pytest.raises(RuntimeError, match="device-side assert"), _out_of_memory_named(8, 2):
        raise RuntimeError("CUDA error: device-side assert triggered")


def test_a_size_that_was_asked_for_is_not_changed(tiny_model: Path, tmp_path: Path) -> None:
    said = train(tmp_path, tiny_model, {"name": "ddp"}, most=10, code=1, **{"train.micro_batch_size": "2"})
    assert "did not fit with micro-batches of 2: cannot hold" in said.stderr
    assert "what to do: lower train.micro_batch_size" in said.stderr
