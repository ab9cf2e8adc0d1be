"""What the plan must know of each engine: a file an engine, none of which imports torch."""

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
"""`auto` takes the first that it may and that fits."""
_ENGINE_OF = {sharding.name: engine for engine in ENGINES.values() for sharding in engine.shardings}
SHARDINGS: dict[str, Sharding] = {sharding.name: sharding for e in ENGINES.values() for sharding in e.shardings}
FOR_SEVERAL = tuple(
    sorted(
        (sharding for sharding in SHARDINGS.values() if _ENGINE_OF[sharding.name].runs_on(2)),
        key=lambda sharding: sharding.communication,
    )
)
"""What several processes may choose from, from the least communication to the most."""


def named_engine(job: Job) -> EngineFacts | None:
    """The engine that a job names; None where it leaves that open."""
    return ENGINES.get(job.engine.name)


def automatic(processes: int) -> list[EngineFacts]:
    """The engines that `auto` may choose for so many processes, the first preferred."""
    return [engine for engine in ENGINES.values() if engine.chosen_by_auto and engine.runs_on(processes)]


def engine_with(sharding: Sharding) -> EngineFacts:
    """The engine that divides the state so."""
    return _ENGINE_OF[sharding.name]


def on_devices(sharding: Sharding, count: int) -> Sharding:
    """The same, or the nearest to it where its engine is not for so many."""
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
    """The memory of each process, everything in fp32; frozen parameters have neither gradients nor moments.

    copies: of what learns, kept beside the moments (an average, the start)
    takes_what_it_reserves: as GPUs do, where the memory of a CPU takes what is written to
    """
    moments = copies + (int(optimizer.momentum > 0) if optimizer.name == "sgd" else 2)
    return SHARDINGS[sharding].memory(Demand(size, ranks, moments, load, takes_what_it_reserves))
