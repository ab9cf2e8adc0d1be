"""What the plan must know about each engine: one file per engine, without torch."""

from __future__ import annotations

from launcher.job.schema import Job
from launcher.job.sections.training import Optimizer
from launcher.plan.engines.ddp import Ddp
from launcher.plan.engines.deepspeed import DeepSpeed
from launcher.plan.engines.facts import EngineFacts, Sharding
from launcher.plan.engines.fsdp import Fsdp
from launcher.plan.engines.single import Single
from launcher.plan.memory import Demand, Memory, Workload
from launcher.plan.model_size import ModelSize

ENGINES: dict[str, EngineFacts] = {facts.name: facts for facts in (Single(), Ddp(), Fsdp(), DeepSpeed())}
"""`auto` takes the first allowed one that fits."""
_ENGINE_OF = {sharding.name: engine for engine in ENGINES.values() for sharding in engine.shardings}
SHARDINGS: dict[str, Sharding] = {sharding.name: sharding for e in ENGINES.values() for sharding in e.shardings}
FOR_SEVERAL = tuple(
    sorted(
        (sharding for sharding in SHARDINGS.values() if _ENGINE_OF[sharding.name].runs_on(2)),
        key=lambda sharding: sharding.communication,
    )
)
"""The shardings for several processes, from the least communication to the most."""


def named_engine(job: Job) -> EngineFacts | None:
    """The engine that a job names; None for `auto`."""
    return ENGINES.get(job.engine.name)


def automatic(processes: int) -> list[EngineFacts]:
    """The engines that `auto` may choose for a number of processes, in order of preference."""
    return [engine for engine in ENGINES.values() if engine.chosen_by_auto and engine.runs_on(processes)]


def engine_with(sharding: Sharding) -> EngineFacts:
    """The engine that has this sharding."""
    return _ENGINE_OF[sharding.name]


def on_devices(sharding: Sharding, count: int) -> Sharding:
    """The same sharding, or the closest one if its engine does not run on that many devices."""
    return sharding if engine_with(sharding).runs_on(count) else automatic(count)[0].shardings[0]


def memory_of(
    size: ModelSize,
    optimizer: Optimizer,
    sharding: str,
    ranks: int,
    load: Workload,
    copies: int = 0,
    *,
    takes_what_it_reserves: bool = True,
) -> Memory:
    """The memory of each process, with everything in fp32; frozen parameters have neither gradients nor moments.

    copies: number of copies of the trained weights in addition to the moments (an average, the start)
    takes_what_it_reserves: True on GPUs; on a CPU only memory that is written to counts
    """
    moments = copies + (int(optimizer.momentum > 0) if optimizer.name == "sgd" else 2)
    return SHARDINGS[sharding].memory(Demand(size, ranks, moments, load, takes_what_it_reserves))
