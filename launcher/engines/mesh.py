"""Process groups along the axes of a mesh, and the only place that asks torch.distributed for its ranks."""

from __future__ import annotations

import numpy as np
import torch.distributed as dist

from launcher.plan.mesh import Mesh

AXES = ("replicate", "shard", "tensor", "context")
"""The axes, outermost first: ranks are numbered along the last one first."""


def process_count() -> int:
    """The number of processes in the default group; 1 without one."""
    return dist.get_world_size() if dist.is_initialized() else 1


def process_rank() -> int:
    """The rank of this process among them; 0 without a group."""
    return dist.get_rank() if dist.is_initialized() else 0


def group_along(mesh: Mesh, *axes: str) -> dist.ProcessGroup | None:
    """This rank's group along some axes: the ranks equal to it on all others; None means all. Every rank calls this."""
    assert mesh.size == process_count(), f"{mesh} is for {mesh.size} processes, and {process_count()} are running"
    sizes = [getattr(mesh, axis) for axis in AXES]
    chosen = [number for number, axis in enumerate(AXES) if axis in axes]
    together = int(np.prod([sizes[number] for number in chosen]))
    if together == mesh.size:
        return None
    ranks = np.moveaxis(np.arange(mesh.size).reshape(sizes), chosen, range(-len(chosen), 0))
    group, _ = dist.new_subgroups_by_enumeration(ranks.reshape(-1, together).tolist())
    return group


def data_group(mesh: Mesh) -> dist.ProcessGroup | None:
    """The data-parallel group: other samples, the same shard of the layers; None means all ranks."""
    return group_along(mesh, "replicate", "shard")
