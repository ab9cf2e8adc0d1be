"""What the plan must know of an engine: which processes it runs on, what it takes of each, what it reads."""

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
    """How an engine divides the state of training among the ranks; some engines have several ways.

    name: as `plan` shows it
    section: the job file's `engine` that asks for it
    memory: what a process takes
    slices: what a rank keeps a slice of only, with all that is named before it in `SLICED`
    uses_host: a part is kept in the machine's memory
    may_keep_gradients: they may be whole between the micro-batches of a step, so that they travel once a step
    """

    name: str
    section: Mapping[str, str]
    memory: Callable[[Demand], Memory]
    slices: Literal["nothing", "optimizer", "gradients", "weights"] = "nothing"
    uses_host: bool = False
    may_keep_gradients: bool = False

    @property
    def communication(self) -> tuple[bool, int]:
        """Sorts from the least to the most."""
        return self.uses_host, SLICED.index(self.slices)

    @property
    def spelling(self) -> str:
        """The section as it is written in a job file."""
        return f"{{{', '.join(f'{key}: {value}' for key, value in self.section.items())}}}"


class EngineFacts:
    """Says of an engine what its own file under `launcher/engines` cannot, since that needs torch.

    name: in the job file
    shardings: of which a job has one
    fewest, most: processes that it runs on; None for any number
    chosen_by_auto: where the job file leaves the engine open
    gathers_in_precision: sliced weights travel in the precision of the forward pass, not in fp32
    """

    name: str
    shardings: tuple[Sharding, ...]
    fewest: int = 1
    most: int | None = None
    chosen_by_auto: bool = False
    gathers_in_precision: bool = False

    def runs_on(self, processes: int) -> bool:
        """Whether so many processes can share the work."""
        return self.fewest <= processes and (self.most is None or processes <= self.most)

    def mesh(self, ranks: int) -> Mesh:
        """Along which axes the work is divided among so many ranks."""
        return Mesh(replicate=ranks)

    def sharding_of(self, job: Job) -> Sharding:
        """The one that a job asks for."""
        return self.shardings[0]

    def check(self, job: Job, job_file: Path) -> None:
        """Look at what the engine reads beside the job file. Raises JobError."""

    def config(self, job: Job, job_file: Path, split: Split, precision: str) -> dict[str, Any] | None:
        """What the engine's library reads, if anything. Raises JobError."""
        return None
