"""Which shardings fit given GPUs, and the cheapest change that makes a job fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil

from launcher.job.rules.general import broken_rules
from launcher.job.schema import Engine, Job
from launcher.job.sections.adapters import OFFERED
from launcher.plan.engines import FOR_SEVERAL, SHARDINGS, engine_with, memory_of, on_devices
from launcher.plan.engines.facts import Sharding
from launcher.plan.memory import FLOAT32, Memory, Workload
from launcher.plan.model_size import ModelSize, size_of_job

ROOM = 0.9
"""Usable share of a device's memory: the rest goes to the driver, libraries and fragmentation."""


@dataclass(frozen=True)
class ShardingOption:
    """One way to run a job, and its memory on each device.

    sharing: name of the sharding
    whole_gradients: whether gradients are whole between the micro-batches of a step
    """

    sharing: str
    ranks: int
    micro_batch: int
    recomputes: bool
    memory: Memory
    fits: bool
    whole_gradients: bool = False


@dataclass(frozen=True)
class Devices:
    """The number of devices and the bytes of each; on CPUs, of each process."""

    count: int
    memory: int
    are_gpus: bool = True


def way_of(
    job: Job, size: ModelSize, precision: str, devices: Devices, sharing: Sharding, micro_batch: int, recomputes: bool
) -> ShardingOption:
    """The memory of a job with a sharding."""
    one = on_devices(sharing, devices.count)
    accumulates = micro_batch < share_of_a_rank(job, one, devices.count)
    load = Workload(micro_batch * (size.patches or job.train.max_length), precision, recomputes, accumulates)
    memory = memory_of(
        size,
        job.train.optimizer,
        one.name,
        devices.count,
        load,
        job.adapt.copies,
        takes_what_it_reserves=devices.are_gpus,
    )
    room = ROOM * devices.memory
    whole = replace(memory, gradients=FLOAT32 * size.learning)
    if one.may_keep_gradients and accumulates and whole.total <= room:
        return ShardingOption(one.name, devices.count, micro_batch, recomputes, whole, fits=True, whole_gradients=True)
    return ShardingOption(one.name, devices.count, micro_batch, recomputes, memory, memory.total <= room)


def shardings_for(job: Job, changed: Job | None = None) -> tuple[Sharding, ...]:
    """The shardings for several processes with which the job breaks no rule that it keeps now.

    changed: the job with other settings, with which the shardings are to be combined
    """
    kept, other = broken_rules(job), job if changed is None else changed
    launch = other.launch.model_copy(update={"processes": "auto"})

    def is_allowed(sharing: Sharding) -> bool:
        engine = Engine.model_validate(sharing.section)
        candidate = other.model_copy(update={"engine": engine, "launch": launch})
        return all(violation in kept for violation in broken_rules(candidate))

    return tuple(sharing for sharing in FOR_SEVERAL if is_allowed(sharing))


def largest_micro_batch(
    job: Job, size: ModelSize, precision: str, devices: Devices, sharing: Sharding, most: int
) -> int | None:
    """The largest of `most`, its half, its quarter, … that fits; None if a single sample does not."""
    size_tried = most
    while size_tried >= 1:
        recomputes = job.train.activation_checkpointing
        if way_of(job, size, precision, devices, sharing, size_tried, recomputes).fits:
            return size_tried
        size_tried //= 2
    return None


def cheapest_change(job: Job, size: ModelSize, precision: str, devices: Devices, now: ShardingOption) -> str:
    """The first of these that fits: smaller micro-batches, recomputing, more sharding, offloading, more devices.

    None of them changes the result. If it needs host memory or more devices, adapters are suggested as well.
    """
    found = next((found for found in _changes(job, size, precision, devices, now) if found[0].fits), None)
    if found is not None and not found[0].memory.host and found[0].ranks == devices.count:
        return found[1]
    offered = (None if found is None else found[1], adapters_that_fit(job, precision, devices, now))
    changes = "; or ".join(change for change in offered if change is not None)
    if changes:
        return changes
    slices = any(sharing.slices == "weights" for sharing in shardings_for(job))
    return "a smaller model" + (": one layer of this one does not fit, however many of these GPUs" if slices else "")


def adapters_that_fit(job: Job, precision: str, devices: Devices, now: ShardingOption) -> str | None:
    """The change that gives the job adapters and fits without host memory; None if there is none."""
    return next((change for way, change in _with_adapters(job, precision, devices, now) if way.fits), None)


def _with_adapters(
    job: Job, precision: str, devices: Devices, now: ShardingOption
) -> Iterator[tuple[ShardingOption, str]]:
    """The job with adapters, which gives another result, in each sharding that needs no host memory."""
    if job.adapt.adapters is not None:
        return
    adapted = job.model_copy(update={"adapt": job.adapt.model_copy(update={"adapters": OFFERED})})
    plain = [sharing for sharing in shardings_for(job, adapted) if not sharing.uses_host]
    size = size_of_job(adapted) if plain else None
    if size is None:
        return
    for sharing, recomputes in ((sharing, recomputes) for sharing in plain for recomputes in (now.recomputes, True)):
        way = way_of(job, size, precision, devices, sharing, 1, recomputes)
        extra = "" if recomputes == now.recomputes else ", train.activation_checkpointing: true"
        engine = "" if way.sharing != sharing.name else f", engine: {sharing.spelling}"
        yield way, f"adapt.adapters: {{kind: {OFFERED.kind}}}{engine}, train.micro_batch_size: 1{extra}"


def _changes(
    job: Job, size: ModelSize, precision: str, devices: Devices, now: ShardingOption
) -> Iterator[tuple[ShardingOption, str]]:
    def way(sharing: Sharding, micro_batch: int, recomputes: bool, among: Devices = devices) -> ShardingOption:
        return way_of(job, size, precision, among, sharing, micro_batch, recomputes)

    halves = [max(1, now.micro_batch >> shift) for shift in range(1, now.micro_batch.bit_length())]
    for smaller in halves:
        yield way(SHARDINGS[now.sharing], smaller, now.recomputes), f"train.micro_batch_size: {smaller}"
    if not now.recomputes:
        for smaller in (now.micro_batch, *halves):
            change = f"train.activation_checkpointing: true and train.micro_batch_size: {smaller}"
            yield way(SHARDINGS[now.sharing], smaller, True), change
    slicing = [sharing for sharing in shardings_for(job) if sharing.slices != "nothing"]
    for sharing in slicing:
        for recomputes in (now.recomputes, True):
            extra = "" if recomputes == now.recomputes else ", train.activation_checkpointing: true"
            change = f"engine: {sharing.spelling}, train.micro_batch_size: 1{extra}"
            yield way(sharing, 1, recomputes), change
    for sliced in [sharing for sharing in slicing if sharing.slices == "weights"][:1]:
        for times in (2, 4, 8, 16, 32, 64, 128):
            more = replace(devices, count=devices.count * times)
            change = f"{more.count} such GPUs with engine: {sliced.spelling}, train.activation_checkpointing: true"
            yield way(sliced, 1, True, more), change


def share_of_a_rank(job: Job, sharing: Sharding, ranks: int) -> int:
    """Maximum number of samples of a step on one rank."""
    return ceil(job.train.global_batch_size / engine_with(sharing).mesh(ranks).data_size)
