"""What the plan decides, why, and how it splits a batch."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from math import ceil
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import DataError, JobError
from launcher.job.reading.job_file import load_job
from launcher.job.schema import Job
from launcher.job.sections.methods import SelfTraining
from launcher.plan import hardware as hardware_module
from launcher.plan.hardware import Gpu, Hardware, find_hardware
from launcher.plan.plan import Plan
from launcher.plan.planner import make_plan
from launcher.plan.split import split_batch

LAPTOP = Hardware((), cores=4, memory=2**34)
H100 = Gpu("H100", 80 * 2**30, 9.0)
T4 = Gpu("T4", 16 * 2**30, 7.5)
WORKSTATION = Hardware((H100,) * 8, cores=64, memory=2**38)


def job(folder: Path, samples: int = 100, **sections: Any) -> tuple[Job, Path]:
    (folder / "train.csv").write_text("text,label\n" + "a,b\n" * samples)
    (folder / "tiny").mkdir(exist_ok=True)
    for name in ("config.json", "tokenizer.json"):
        (folder / "tiny" / name).write_text("{}")
    values = {"name": "x", "model": {"pretrained": "tiny"}, "task": "text-classification", **sections}
    values["data"] = {"train": "train.csv"}
    (folder / "job.yaml").write_text(json.dumps(values))
    return load_job(folder / "job.yaml"), folder / "job.yaml"


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 5, 64])
@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("global_batch", [8, 30, 64, 100])
def test_a_split_holds_every_sample_and_never_more_than_the_micro_batch(
    global_batch: int, ranks: int, micro_batch: int
) -> None:
    split = split_batch(global_batch, ranks, micro_batch)
    assert split.micro_batch <= micro_batch
    assert split.ranks * split.accumulation * split.micro_batch >= global_batch
    assert split.ranks * (split.accumulation - 1) * micro_batch < global_batch
    assert f"{global_batch} samples a step" in str(split)


@pytest.mark.parametrize(
    ("hardware", "sections", "expected"),
    [
        (LAPTOP, {}, ("ddp", "cpu", "fp32", 4, 1)),
        (LAPTOP, {"train": {"global_batch_size": 2}}, ("ddp", "cpu", "fp32", 2, 2)),
        (LAPTOP, {"engine": {"name": "single"}}, ("single", "cpu", "fp32", 1, 4)),
        (LAPTOP, {"launch": {"processes": 3}}, ("ddp", "cpu", "fp32", 3, 1)),
        (LAPTOP, {"train": {"precision": "bf16"}}, ("ddp", "cpu", "bf16", 4, 1)),
        (WORKSTATION, {}, ("ddp", "cuda", "bf16", 8, 8)),
        (WORKSTATION, {"launch": {"device": "cpu"}}, ("ddp", "cpu", "fp32", 32, 2)),
        (WORKSTATION, {"train": {"precision": "fp16"}}, ("ddp", "cuda", "fp16", 8, 8)),
        (Hardware((T4,), 8, 2**36), {}, ("single", "cuda", "fp32", 1, 8)),
    ],
)
def test_auto_is_decided_from_the_machine(
    hardware: Hardware, sections: dict[str, Any], expected: tuple[object, ...], tmp_path: Path
) -> None:
    plan = make_plan(*job(tmp_path, **sections), hardware)
    assert (plan.engine, plan.device, plan.precision, plan.processes, plan.threads) == expected
    assert all(reason in str(plan) for reason in plan.reasons)


def test_few_samples_need_few_processes(tmp_path: Path) -> None:
    assert make_plan(*job(tmp_path, samples=3), LAPTOP).processes == 3


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"launch": {"device": "cuda"}}, "launch.device: cuda is requested and this machine has no GPU"),
        ({"train": {"precision": "fp16"}}, "train.precision: fp16 needs a GPU, and this runs on the CPU"),
    ],
)
def test_what_this_machine_cannot_do_is_refused(sections: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=message):
        make_plan(*job(tmp_path, **sections), LAPTOP)


@pytest.mark.parametrize(("steps", "refused"), [(26, True), (27, False)])
def test_a_target_that_would_never_be_labelled_is_told(steps: int, refused: bool, tmp_path: Path) -> None:
    asked, file = job(tmp_path, train={"global_batch_size": 8, "max_steps": steps})
    adapt = SelfTraining(method="self-training", after_epochs=2)
    asked = asked.model_copy(update={"adapt": adapt})
    told = pytest.raises(JobError, match=r"labelled after 26 steps, and train\.max_steps is 26")
    with told if refused else nullcontext():
        make_plan(asked, file, LAPTOP)


@pytest.mark.parametrize("ranks", [{"processes": 2}, {"nodes": 2}])
def test_the_single_engine_is_not_for_several_processes(ranks: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(
        JobError, match=r"engine.name: single is one process, and 2 are running\n.*engine.name: ddp, or auto"
    ):
        make_plan(*job(tmp_path, engine={"name": "single"}), LAPTOP, **ranks)


def test_that_ddp_has_nothing_to_do_is_told(tmp_path: Path) -> None:
    plan = make_plan(*job(tmp_path, engine={"name": "ddp"}), Hardware((), 1, 2**33))
    assert plan.engine == "single"
    assert "single: ddp is for several processes, and there is one" in plan.reasons


def test_unreadable_training_data_are_refused(tmp_path: Path) -> None:
    made, file = job(tmp_path)
    (tmp_path / "train.csv").write_bytes(b"text,label\n\xff,b\n")
    with pytest.raises(DataError, match="offset 11 is not utf-8"):
        make_plan(made, file, LAPTOP)


def test_more_processes_than_gpus_are_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"9 processes need a GPU each, and this machine has 8\n.*processes: 8"):
        make_plan(*job(tmp_path, launch={"processes": 9}), WORKSTATION)


@pytest.mark.parametrize(("samples", "batch", "epochs", "most"), [(100, 32, 3, None), (96, 32, 3, None), (5, 5, 2, 1)])
def test_steps(samples: int, batch: int, epochs: int, most: int | None, tmp_path: Path) -> None:
    train = {"epochs": epochs, "global_batch_size": batch, "max_steps": most}
    plan = make_plan(*job(tmp_path, samples, train=train), LAPTOP)
    assert plan.steps_per_epoch == ceil(samples / batch)
    assert plan.total_steps == min(epochs * ceil(samples / batch), most or 10**9)
    assert json.loads(plan.as_json())["total_steps"] == plan.total_steps


def test_the_commands_are_those_that_run(tmp_path: Path) -> None:
    several = make_plan(*job(tmp_path), LAPTOP)
    assert several.commands == (
        ("torchrun", "--standalone", "--nproc-per-node", "4", "-m", "launcher.worker", str(tmp_path / "job.yaml")),
    )
    alone = make_plan(*job(tmp_path, launch={"processes": 1}), LAPTOP)
    assert alone.commands == ((sys.executable, "-P", "-m", "launcher.worker", str(tmp_path / "job.yaml")),)
    assert alone.with_sets(["train.epochs=2"]).commands[0][-3:] == (
        str(tmp_path / "job.yaml"),
        "--set",
        "train.epochs=2",
    )


def test_a_plan_is_read_back_as_it_was_saved(tmp_path: Path) -> None:
    plan = make_plan(*job(tmp_path), LAPTOP)
    plan.save(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == plan


def test_the_driver_is_asked_for_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = tmp_path / "nvidia-smi"
    asked.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 81559, 9.0'\necho 'Tesla T4, 15360, 7.5'\n")
    asked.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    h100, t4 = "NVIDIA H100 80GB HBM3", "Tesla T4"
    for visible, names in (
        (None, [h100, t4]),
        ("0", [h100]),
        ("1", [t4]),
        ("1,0", [t4, h100]),
        ("", []),
        ("-1", []),
        ("0,7,1", [h100]),
        ("GPU-8932f937", [h100]),
    ):
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert [gpu.name for gpu in find_hardware().gpus] == names
    assert hardware_module._gpus()[0] == Gpu("NVIDIA H100 80GB HBM3", 81559 * 2**20, 9.0)


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    found = find_hardware()
    assert found.gpus == ()
    assert found.cores >= 1
    assert found.memory > 2**28


@pytest.mark.parametrize(
    ("hardware", "train", "message"),
    [
        (LAPTOP, {"tf32": True}, "tf32 needs GPUs of compute capability 8.0 or more, and this runs on the CPU"),
        (Hardware((T4,), 8, 2**36), {"tf32": True}, "and this runs on T4"),
        (Hardware((T4,), 8, 2**36), {"precision": "bf16"}, "T4 has no bf16"),
    ],
)
def test_a_number_format_that_the_device_lacks_is_refused(
    hardware: Hardware, train: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(JobError, match=message):
        make_plan(*job(tmp_path, train=train), hardware)
    make_plan(*job(tmp_path, train=train), WORKSTATION)


def test_which_validation_set_is_evaluated_when_is_said_of_several(tmp_path: Path) -> None:
    _, file = job(tmp_path, data={})
    for name in ("near.csv", "far.csv"):
        (tmp_path / name).write_text("text,label\nc,d\n")
    several = ["data.validation={near: near.csv, far: far.csv}"]
    plan = make_plan(load_job(file, several), file, LAPTOP)
    assert "validation near each epoch, since it selects the checkpoint; far before training and at its end" in str(
        plan
    )
    plan.save(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == plan
    steps = make_plan(load_job(file, [*several, "validation.set=far", "validation.every=50"]), file, LAPTOP)
    assert "validation far every 50 steps, since it selects the checkpoint; near before" in str(steps)
    assert make_plan(load_job(file, ["data.validation=near.csv"]), file, LAPTOP).evaluations == ""
