"""Making the plan: every `auto` of the job file is decided here, with a reason."""

from __future__ import annotations

import sys
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Literal

from launcher.data.sources import count_rows
from launcher.errors import JobError, Problem
from launcher.job.pretrained import find_pretrained
from launcher.job.schema import Job
from launcher.plan.deepspeed_config import render_deepspeed
from launcher.plan.hardware import Hardware, find_hardware
from launcher.plan.memory import count_parameters, mebibytes, state_memory
from launcher.plan.plan import EngineName, Plan, zero_stage
from launcher.plan.split import split_batch

CPU_MICRO_BATCH, GPU_MICRO_BATCH = 16, 64
ROOM_FOR_STATE = 0.8


def make_plan(job: Job, job_file: Path, hardware: Hardware | None = None, processes: int | None = None) -> Plan:
    """Decide what will run.

    processes: given where the ranks already run, as under torchrun by hand
    Raises JobError where this machine cannot do what the job asks, DataError for unreadable training data.
    """
    hardware = hardware or find_hardware()
    samples = count_rows(job.data.train)
    reasons: list[str] = []
    device = _device(job, job_file, hardware)
    ranks = processes or _processes(job, job_file, device, hardware, samples, reasons)
    split = split_batch(job.train.global_batch_size, ranks, _micro_batch(job, device, ranks, reasons))
    parameters = _parameters(job)
    engine = _engine(job, ranks, parameters, _memory_of_a_process(device, hardware, ranks), reasons)
    deepspeed = render_deepspeed(job, job_file, split) if engine == "deepspeed" else None
    stage = None if deepspeed is None else zero_stage(deepspeed)
    return Plan(
        name=job.name,
        model=job.model.pretrained,
        engine=engine,
        device=device,
        precision=_precision(job, job_file, device, hardware, reasons),
        processes=ranks,
        threads=max(1, hardware.cores // ranks),
        split=split,
        micro_batch_limit=None,
        state=None if parameters is None else state_memory(parameters, job.train.optimizer, engine, ranks, stage),
        deepspeed=deepspeed,
        evaluation_batch=job.validation.batch_size,
        epochs=job.train.epochs,
        max_steps=job.train.max_steps,
        train_samples=samples,
        reasons=tuple(reasons),
        commands=(_command(job_file, ranks),),
    )


def with_smaller_micro_batches(plan: Plan, job: Job, job_file: Path, limit: int) -> Plan:
    """The plan with micro-batches of at most `limit`, since larger ones ran out of memory. It changes no number."""
    split = split_batch(plan.split.global_batch, plan.processes, min(limit, plan.split.micro_batch))
    return replace(
        plan,
        split=split,
        micro_batch_limit=limit,
        deepspeed=None if plan.deepspeed is None else render_deepspeed(job, job_file, split),
        reasons=(*plan.reasons, f"micro-batches of {split.micro_batch}: larger ones ran out of memory"),
    )


def _device(job: Job, job_file: Path, hardware: Hardware) -> Literal["cpu", "cuda"]:
    wanted = job.launch.device
    if wanted == "cuda" and not hardware.gpus:
        raise _refusal(job_file, "launch.device", "cuda is asked for and this machine shows no GPU", "device: auto")
    return "cuda" if wanted != "cpu" and hardware.gpus else "cpu"


def _processes(
    job: Job, job_file: Path, device: str, hardware: Hardware, samples: int | None, reasons: list[str]
) -> int:
    wanted = job.launch.processes
    if wanted != "auto":
        if device == "cuda" and wanted > len(hardware.gpus):
            message = f"{wanted} processes need a GPU each, and this machine shows {len(hardware.gpus)}"
            fix = f"launch.processes: {len(hardware.gpus)}, or launch.device: cpu"
            raise _refusal(job_file, "launch.processes", message, fix)
        return wanted
    limit = min(job.train.global_batch_size, samples or job.train.global_batch_size)
    if job.engine.name == "single":
        reasons.append("1 process: engine.name is single")
        return 1
    if device == "cuda":
        ranks = max(1, min(len(hardware.gpus), limit))
        reasons.append(f"{ranks} processes: one a GPU of {len(hardware.gpus)}")
    else:
        ranks = max(1, min(hardware.cores, limit))
        reasons.append(f"{ranks} processes: no GPU, one a physical core of {hardware.cores}, at most one a sample")
    return ranks


def _engine(job: Job, ranks: int, parameters: int | None, room: int, reasons: list[str]) -> EngineName:
    """The cheapest in communication whose state leaves a fifth of a process's memory to activations."""
    if job.engine.name in ("fsdp", "deepspeed") or (job.engine.name == "ddp" and ranks > 1):
        return job.engine.name
    if ranks == 1:
        return "single"
    if parameters is None:
        reasons.append("ddp: the size of the model is not known here")
        return "ddp"
    needed = state_memory(parameters, job.train.optimizer, "ddp", ranks).total
    if needed <= ROOM_FOR_STATE * room:
        reasons.append(f"ddp: weights, gradients and optimizer take {mebibytes(needed)} of {mebibytes(room)} a process")
        return "ddp"
    reasons.append(f"fsdp: ddp would take {mebibytes(needed)} of {mebibytes(room)} a process before any activation")
    return "fsdp"


def _parameters(job: Job) -> int | None:
    try:
        return count_parameters(find_pretrained(job.model))
    except (OSError, ValueError, KeyError, AttributeError):
        return None  # loading says what is wrong with the file


def _memory_of_a_process(device: str, hardware: Hardware, ranks: int) -> int:
    return min(gpu.memory for gpu in hardware.gpus) if device == "cuda" else hardware.memory // ranks


def _micro_batch(job: Job, device: str, ranks: int, reasons: list[str]) -> int:
    share = ceil(job.train.global_batch_size / ranks)
    wanted = job.train.micro_batch_size
    if wanted != "auto":
        return min(wanted, share)
    most = GPU_MICRO_BATCH if device == "cuda" else CPU_MICRO_BATCH
    size = min(most, share)
    reasons.append(f"micro-batches of {size}: a rank's share is {share}, and {most} keep this device busy")
    return size


def _precision(
    job: Job, job_file: Path, device: str, hardware: Hardware, reasons: list[str]
) -> Literal["fp32", "bf16", "fp16"]:
    wanted = job.train.precision
    if wanted == "fp16" and device == "cpu":
        raise _refusal(job_file, "train.precision", "fp16 needs a GPU, and this runs on the CPU", "precision: fp32")
    if wanted != "auto":
        return wanted
    if device == "cuda" and all(gpu.capability >= 8.0 for gpu in hardware.gpus):
        reasons.append("bf16: the GPUs have it")
        return "bf16"
    reasons.append(f"fp32: the {'GPUs have' if device == 'cuda' else 'CPU has'} no fast bf16")
    return "fp32"


def _command(job_file: Path, ranks: int) -> tuple[str, ...]:
    if ranks == 1:
        return sys.executable, "-P", "-m", "launcher.worker", str(job_file)
    return "torchrun", "--standalone", "--nproc-per-node", str(ranks), "-m", "launcher.worker", str(job_file)


def _refusal(job_file: Path, path: str, message: str, fix: str) -> JobError:
    return JobError([Problem(str(job_file), path, message, fix)])
