"""Making the plan: every `auto` of the job file is decided here, with a reason."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

from launcher.data.columns import check_columns, left_out_of
from launcher.data.sources import count_rows
from launcher.errors import JobError, Problem
from launcher.job.requests import rank_command
from launcher.job.schema import Job
from launcher.plan.engines import ENGINES, SHARDINGS, automatic, named_engine
from launcher.plan.engines.facts import EngineFacts, Sharding
from launcher.plan.fit import Devices, ShardingOption, cheapest_change, largest_micro_batch, share_of_a_rank, way_of
from launcher.plan.hardware import Hardware, find_hardware
from launcher.plan.measured import losses_of
from launcher.plan.memory import mebibytes
from launcher.plan.model_size import ModelSize, size_of_job
from launcher.plan.plan import Plan, total_steps
from launcher.plan.split import split_batch
from launcher.plan.steps import draws_an_epoch, pretraining_steps, target_batch

CPU_MICRO_BATCH, GPU_MICRO_BATCH = 16, 64
ROOM_FOR_STATE = 0.8


def make_plan(
    job: Job, job_file: Path, hardware: Hardware | None = None, processes: int | None = None, nodes: int = 1
) -> Plan:
    """Decide what will run.

    hardware: of each node; None for this machine's
    processes: on each node; given if the ranks already run, as under torchrun by hand
    Raises JobError if this machine cannot do what the job requests, DataError for unreadable training data.
    """
    hardware = hardware or find_hardware()
    check_columns(job)
    samples = _draws_an_epoch(job)
    _check_labelling(job, job_file, samples)
    reasons: list[str] = [*left_out_of(job), *_additional_steps(job)]
    device = device_for(job, job_file, hardware)
    ranks = processes or _processes(job, job_file, device, hardware, samples, nodes, reasons)
    world = ranks * nodes
    named = named_engine(job)
    if named is not None and named.most is not None and world > named.most:
        message = f"{named.name} is one process, and {world} are running"
        raise _refusal(job_file, "engine.name", message, "engine.name: ddp, or auto")
    precision = _precision(job, job_file, device, hardware, reasons)
    size = size_of_job(job)
    _check_adapters(job, job_file, device, size, reasons)
    if job.train.optimizer.name == "schedule_free_adamw" and importlib.util.find_spec("schedulefree") is None:
        message = "schedule_free_adamw needs the package schedulefree, which is not installed"
        raise _refusal(job_file, "train.optimizer.name", message, 'pip install "adaptrun[schedule-free]"')
    devices = Devices(world, _memory_of_a_process(device, hardware, ranks), are_gpus=device == "cuda")
    engine = _engine(job, size, devices, reasons)
    sharing = engine.sharding_of(job)
    micro_batch = _micro_batch(job, size, precision, devices, sharing, device, reasons)
    split = split_batch(job.train.global_batch_size, engine.mesh(world).data_size, micro_batch)
    now = None
    if size is not None:
        recomputes = job.train.activation_checkpointing
        now = way_of(job, size, precision, devices, sharing, split.micro_batch, recomputes)
        if device == "cuda" and now.memory.state > devices.memory:
            raise _does_not_fit(job, job_file, size, precision, devices, now)
        if SHARDINGS[now.sharing].may_keep_gradients and split.accumulation > 1 and not now.whole_gradients:
            reasons.append("gradients are reduced after each micro-batch, since whole gradients do not fit into memory")
    return Plan(
        name=job.name,
        model=job.model.pretrained,
        engine=engine.name,
        device=device,
        precision=precision,
        nodes=nodes,
        processes=ranks,
        threads=max(1, hardware.cores // ranks),
        split=split,
        micro_batch_limit=None,
        memory=None if now is None else now.memory,
        whole_gradients=now is not None and now.whole_gradients,
        deepspeed=engine.config(job, job_file, split, precision),
        evaluation_batch=job.validation.batch_size,
        epochs=job.train.epochs,
        max_steps=job.train.max_steps,
        train_samples=samples,
        reasons=tuple(reasons),
        commands=(_command(job_file, ranks),),
        warnings=tuple(losses_of(job)),
        evaluations=evaluations_of(job),
    )


def evaluations_of(job: Job) -> str:
    """Which of several validation sets is evaluated when; empty if there is only one."""
    if len(job.data.validation) < 2:
        return ""
    often = "each epoch" if job.validation.every == "epoch" else f"every {job.validation.every} steps"
    others = ", ".join(name for name in job.data.validation if name != job.deciding_set)
    return f"{job.deciding_set} {often}, since it selects the checkpoint; {others} before training and at its end"


def with_smaller_micro_batches(plan: Plan, job: Job, job_file: Path, limit: int) -> Plan:
    """The plan with micro-batches of at most `limit`, since larger ones ran out of memory. The result is the same."""
    split = split_batch(plan.split.global_batch, plan.split.ranks, min(limit, plan.split.micro_batch))
    return replace(
        plan,
        split=split,
        micro_batch_limit=limit,
        whole_gradients=False,
        deepspeed=ENGINES[plan.engine].config(job, job_file, split, plan.precision),
        reasons=(*plan.reasons, f"micro-batches of {split.micro_batch}: larger ones ran out of memory"),
    )


def _draws_an_epoch(job: Job) -> int | None:
    """Samples per epoch, of the labelled sets, or of the target for a method that needs no labels."""
    target = [] if job.data.target is None else [job.data.target]
    counts = [count_rows(source) for source in list(job.data.train.values()) or target]
    if any(count is None for count in counts):
        return None
    return draws_an_epoch(job, sum(count for count in counts if count is not None))


def _check_labelling(job: Job, job_file: Path, samples: int | None) -> None:
    """Raises JobError if the run would end before it has labelled the target."""
    epochs, train = job.adapt.epochs_before_target, job.train
    if not epochs or samples is None or train.max_steps is None:
        return
    before = total_steps(samples, train.global_batch_size, epochs, None)
    if train.max_steps <= before:
        message = f"the target would first be labelled after {before} steps, and train.max_steps is {train.max_steps}"
        raise _refusal(job_file, "adapt.after_epochs", message, f"train.max_steps: {2 * before}, or more")


def _additional_steps(job: Job) -> Iterator[str]:
    """What a method does in addition to the steps on the labelled samples."""
    adapt = job.adapt
    if target_batch(job):
        yield f"{target_batch(job)} samples of the target in each step as well: {adapt.method}"
    if adapt.pretraining is not None and job.data.target is not None:
        samples = count_rows(job.data.target)
        steps = "steps" if samples is None else f"{pretraining_steps(job, samples)} steps"
        yield f"{steps} of continued pre-training on the target, then those on the labelled samples"


def device_for(job: Job, job_file: Path, hardware: Hardware) -> Literal["cpu", "cuda"]:
    """The device type of the ranks. Raises JobError if this machine has none."""
    wanted = job.launch.device
    if wanted == "cuda" and not hardware.gpus:
        raise _refusal(job_file, "launch.device", "cuda is requested and this machine has no GPU", "device: auto")
    return "cuda" if wanted != "cpu" and hardware.gpus else "cpu"


def _processes(
    job: Job, job_file: Path, device: str, hardware: Hardware, samples: int | None, nodes: int, reasons: list[str]
) -> int:
    wanted = job.launch.processes
    if wanted != "auto":
        if device == "cuda" and wanted > len(hardware.gpus):
            message = f"{wanted} processes need a GPU each, and this machine has {len(hardware.gpus)}"
            fix = f"launch.processes: {len(hardware.gpus)}, or launch.device: cpu"
            raise _refusal(job_file, "launch.processes", message, fix)
        return wanted
    limit = min(job.train.global_batch_size, samples or job.train.global_batch_size) // nodes
    named = named_engine(job)
    if named is not None and named.most == 1:
        reasons.append(f"1 process: engine.name is {named.name}")
        return 1
    if device == "cuda":
        ranks = max(1, min(len(hardware.gpus), limit))
        reasons.append(f"{ranks} processes: one per GPU of {len(hardware.gpus)}")
    else:
        ranks = max(1, min(hardware.cores, limit))
        reasons.append(f"{ranks} processes: no GPU, one per physical core of {hardware.cores}, at most one per sample")
    return ranks


def _engine(job: Job, size: ModelSize | None, devices: Devices, reasons: list[str]) -> EngineFacts:
    """The engine with the least communication whose state leaves a fifth of a process's memory to activations."""
    ranks, room, named = devices.count, devices.memory, named_engine(job)
    if named is not None and named.runs_on(ranks):
        return named
    first, *others = automatic(ranks)
    if named is not None:
        reasons.append(f"{first.name}: {named.name} is for several processes, and there is one")
    if ranks == 1:
        return first
    if job.adapt.is_quantised:
        reasons.append(f"{first.name}: weights in 4 bits cannot be sharded")
        return first
    if size is None:
        reasons.append(f"{first.name}: the size of the model is not known here")
        return first
    needed = way_of(job, size, "fp32", devices, first.shardings[0], 0, recomputes=False).memory.state
    taken = f"{mebibytes(needed)} of {mebibytes(room)} a process"
    if needed <= ROOM_FOR_STATE * room:
        reasons.append(f"{first.name}: weights, gradients and optimizer take {taken}")
        return first
    reasons.append(f"{others[0].name}: {first.name} would take {taken} before any activation")
    return others[0]


def _check_adapters(job: Job, job_file: Path, device: str, size: ModelSize | None, reasons: list[str]) -> None:
    """Report how many parameters are trained. Raises JobError for missing targets, and for what needs a GPU."""
    if job.adapt.is_quantised and device == "cpu":
        message = "weights in 4 bits need a GPU, and this runs on the CPU"
        raise _refusal(job_file, "adapt.adapters.quantised", message, "quantised: false, or a machine with GPUs")
    if job.adapt.is_quantised and importlib.util.find_spec("bitsandbytes") is None:
        message = "weights in 4 bits need the package bitsandbytes, which is not installed"
        raise _refusal(job_file, "adapt.adapters.quantised", message, 'pip install "adaptrun[quantised]"')
    if size is None or size.adapters is None:
        return
    if size.adapters.unmatched:
        message = f"no linear layer of {job.model.pretrained} is named {size.adapters.unmatched[0]!r}"
        raise _refusal(
            job_file, "adapt.adapters.targets", message, "targets: auto, or patterns such as query or *.q_proj"
        )
    about = "about " if size.is_estimated else ""
    reasons.append(f"adapters: {about}{size.learning:,} of {size.parameters:,} parameters are trained")


def _does_not_fit(
    job: Job, job_file: Path, size: ModelSize, precision: str, devices: Devices, now: ShardingOption
) -> JobError:
    message = (
        f"weights, gradients and optimizer take {mebibytes(now.memory.state)} a process with {now.sharing}, and a GPU "
        f"has {mebibytes(devices.memory)}"
    )
    return _refusal(job_file, "model.pretrained", message, cheapest_change(job, size, precision, devices, now))


def _memory_of_a_process(device: str, hardware: Hardware, ranks: int) -> int:
    return min(gpu.memory for gpu in hardware.gpus) if device == "cuda" else hardware.memory // ranks


def _micro_batch(
    job: Job,
    size: ModelSize | None,
    precision: str,
    devices: Devices,
    sharing: Sharding,
    device: str,
    reasons: list[str],
) -> int:
    share, wanted = share_of_a_rank(job, sharing, devices.count), job.train.micro_batch_size
    if wanted != "auto":
        return min(wanted, share)
    most = min(share, GPU_MICRO_BATCH if device == "cuda" else CPU_MICRO_BATCH)
    fitting = most if size is None else largest_micro_batch(job, size, precision, devices, sharing, most) or 1
    reason = f"a rank's share is {share}, and {GPU_MICRO_BATCH if device == 'cuda' else CPU_MICRO_BATCH} keep it busy"
    reasons.append(f"micro-batches of {fitting}: {reason if fitting == most else f'{most} would not fit'}")
    return fitting


def _precision(
    job: Job, job_file: Path, device: str, hardware: Hardware, reasons: list[str]
) -> Literal["fp32", "bf16", "fp16"]:
    wanted = job.train.precision
    if wanted == "fp16" and device == "cpu":
        raise _refusal(job_file, "train.precision", "fp16 needs a GPU, and this runs on the CPU", "precision: fp32")
    older = [gpu.name for gpu in hardware.gpus if gpu.capability < 8.0]
    if job.train.tf32 and (device == "cpu" or older):
        message = (
            f"tf32 needs GPUs of compute capability 8.0 or more, and this runs on {older[0] if older else 'the CPU'}"
        )
        raise _refusal(job_file, "train.tf32", message, "tf32: false")
    if wanted == "bf16" and device == "cuda" and older:
        message = f"{older[0]} has no bf16, which needs compute capability 8.0 or more"
        raise _refusal(job_file, "train.precision", message, "precision: fp16, or fp32")
    if wanted != "auto":
        return wanted
    if device == "cuda" and all(gpu.capability >= 8.0 for gpu in hardware.gpus):
        reasons.append("bf16: the GPUs support it")
        return "bf16"
    reasons.append(f"fp32: the {'GPUs have' if device == 'cuda' else 'CPU has'} no fast bf16")
    return "fp32"


def _command(job_file: Path, ranks: int) -> tuple[str, ...]:
    if ranks == 1:
        return tuple(rank_command(job_file))
    return "torchrun", "--standalone", "--nproc-per-node", str(ranks), "-m", "launcher.worker", str(job_file)


def _refusal(job_file: Path, path: str, message: str, fix: str) -> JobError:
    return JobError([Problem(str(job_file), path, message, fix)])
