"""Process groups along the axes of a mesh, and the only place that asks torch.distributed for its ranks."""

from __future__ import annotations

import numpy as np
import torch.distributed as dist

from launcher.plan.mesh import Mesh

AXES = ("replicate", "shard", "tensor", "context")
"""In the order in which ranks are counted."""


def process_count() -> int:
    """All processes that have joined; 1 where none need to."""
    return dist.get_world_size() if dist.is_initialized() else 1


def process_rank() -> int:
    """Of this process among them."""
    return dist.get_rank() if dist.is_initialized() else 0


def group_along(mesh: Mesh, *axes: str) -> dist.ProcessGroup | None:
    """This rank's group of those that stand alike on all other axes; None is all ranks. Every rank calls it."""
    assert mesh.size == process_count(), f"{mesh} is for {mesh.size} processes, and {process_count()} run"
    sizes = [getattr(mesh, axis) for axis in AXES]
    chosen = [number for number, axis in enumerate(AXES) if axis in axes]
    together = int(np.prod([sizes[number] for number in chosen]))
    if together == mesh.size:
        return None
    ranks = np.moveaxis(np.arange(mesh.size).reshape(sizes), chosen, range(-len(chosen), 0))
    group, _ = dist.new_subgroups_by_enumeration(ranks.reshape(-1, together).tolist())
    return group


def data_group(mesh: Mesh) -> dist.ProcessGroup | None:
    """The ranks that hold other samples than this one, and the same part of the layers; None is all ranks."""
    return group_along(mesh, "replicate", "shard")
