"""Where this task stands among the nodes of its batch job, and by which address the others reach it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from launcher.errors import RunFailed
from launcher.run.network import address_towards


@dataclass(frozen=True)
class NodeEnv:
    """One node's task.

    nodes: names of all nodes, the first of which leads
    token: of this start, the same on every node and in no other start
    step: how many job steps came before in this allocation; 0 for the first
    """

    index: int
    nodes: tuple[str, ...]
    token: str
    step: int

    @classmethod
    def from_environment(cls, nodes: Sequence[str], environment: Mapping[str, str] = os.environ) -> NodeEnv:
        """Read what srun sets."""
        job, requeues = environment["SLURM_JOB_ID"], environment.get("SLURM_RESTART_COUNT", "0")
        step = environment.get("SLURM_STEP_ID", "0")
        return cls(
            int(environment.get("SLURM_NODEID", "0")),
            tuple(nodes),
            f"{job}-{requeues}-{step}",
            int(step),
        )

    @property
    def leads(self) -> bool:
        """Whether this node prepares the data, keeps the store and shows the run."""
        return self.index == 0

    @property
    def address(self) -> str:
        """This node's address as its peers see it: its own name may stand for the loopback in its own table.

        Raises RunFailed where they cannot be reached.
        """
        if len(self.nodes) == 1:
            return "127.0.0.1"
        peer = self.nodes[1 if self.leads else 0]
        try:
            return address_towards(peer)
        except OSError as error:
            raise RunFailed(f"cannot reach {peer}: {error}; each node must resolve the names of the others") from error
