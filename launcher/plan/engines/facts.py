"""What the plan must know about an engine: on how many processes it runs, the memory of each, its configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from launcher.job.schema import Job
from launcher.plan.memory import Demand, Memory
from launcher.plan.mesh import Mesh
from launcher.plan.split import Split

SLICED = ("nothing", "optimizer", "gradients", "weights")


@dataclass(frozen=True)
class Sharding:
    """How an engine shards the training state over the ranks; some engines have several shardings.

    name: as `plan` shows it
    section: the `engine` section of a job file that selects it
    memory: computes the memory of a process
    slices: what is sharded, together with all that comes before it in `SLICED`
    uses_host: whether a part is offloaded to host memory
    may_keep_gradients: gradients may be whole between the micro-batches of a step, and are then reduced once a step
    """

    name: str
    section: Mapping[str, str]
    memory: Callable[[Demand], Memory]
    slices: Literal["nothing", "optimizer", "gradients", "weights"] = "nothing"
    uses_host: bool = False
    may_keep_gradients: bool = False

    @property
    def communication(self) -> tuple[bool, int]:
        """Sort key, from the least communication to the most."""
        return self.uses_host, SLICED.index(self.slices)

    @property
    def spelling(self) -> str:
        """The section as written in a job file."""
        return f"{{{', '.join(f'{key}: {value}' for key, value in self.section.items())}}}"


class EngineFacts:
    """Facts on an engine that do not need torch, unlike its file under `launcher/engines`.

    name: in the job file
    shardings: those that it supports; a job has one of them
    fewest, most: limits of the number of processes; None for no limit
    chosen_by_auto: whether `engine.name: auto` may choose it
    gathers_in_precision: sharded weights are gathered in the precision of the forward pass, not in fp32
    """

    name: str
    shardings: tuple[Sharding, ...]
    fewest: int = 1
    most: int | None = None
    chosen_by_auto: bool = False
    gathers_in_precision: bool = False

    def runs_on(self, processes: int) -> bool:
        """Whether it runs on this number of processes."""
        return self.fewest <= processes and (self.most is None or processes <= self.most)

    def mesh(self, ranks: int) -> Mesh:
        """The device mesh for a number of ranks."""
        return Mesh(replicate=ranks)

    def sharding_of(self, job: Job) -> Sharding:
        """The sharding that a job selects."""
        return self.shardings[0]

    def check(self, job: Job, job_file: Path) -> None:
        """Check the files that the engine reads in addition to the job file. Raises JobError."""

    def config(self, job: Job, job_file: Path, split: Split, precision: str) -> dict[str, Any] | None:
        """The configuration of the engine's library, if it has any. Raises JobError."""
        return None
