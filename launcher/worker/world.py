"""The world a rank finds itself in, read once from the environment, and what ranks say to each other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from launcher.errors import RequestError


@dataclass(frozen=True)
class World:
    """Who this rank is, and on which device it computes.

    rank, size: in the whole world
    local_rank: on this machine
    """

    rank: int = 0
    local_rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    @classmethod
    def from_environment(cls, device: str, environment: Mapping[str, str] = os.environ) -> World:
        """Read torchrun's variables, else those of one srun task, else a world of one."""
        rank, size, local_rank = _place(environment)
        if device == "cuda":
            return cls(rank, local_rank, size, torch.device("cuda", local_rank % torch.cuda.device_count()))
        return cls(rank, local_rank, size)

    @property
    def is_first(self) -> bool:
        """Whether this rank writes what is written once."""
        return self.rank == 0

    @contextmanager
    def joined(self, timeout_minutes: float) -> Iterator[World]:
        """Inside, the ranks can talk; a world of one needs nobody."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        if self.size == 1:
            yield self
            return
        backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
        dist.init_process_group(
            backend, timeout=timedelta(minutes=timeout_minutes), rank=self.rank, world_size=self.size
        )
        try:
            if dist.get_world_size() != self.size:
                raise RuntimeError(f"{self.size} processes were asked for and {dist.get_world_size()} joined")
            yield self
        finally:
            dist.destroy_process_group()

    def sum(self, values: Sequence[float] | Tensor) -> Tensor:
        """Sum over the ranks in float64: a vector on the CPU, the same on every rank."""
        total = torch.as_tensor(values, dtype=torch.float64).to("cpu", copy=True)
        if self.size > 1:
            dist.all_reduce(total)
        return total

    def largest(self, value: float) -> float:
        """The largest of the ranks' values."""
        highest = torch.tensor([value], dtype=torch.float64)
        if self.size > 1:
            dist.all_reduce(highest, op=dist.ReduceOp.MAX)
        return float(highest.item())

    def from_first(self, value: str | None) -> str | None:
        """What rank 0 holds, on every rank."""
        held = [value]
        if self.size > 1:
            dist.broadcast_object_list(held, src=0)
        return held[0]

    def wait(self) -> None:
        """Return when every rank has come here."""
        if self.size > 1:
            dist.barrier()


def _place(environment: Mapping[str, str]) -> tuple[int, int, int]:
    """(rank, size, local rank) as torchrun or deepspeed, srun, or nobody says."""
    if "RANK" in environment:
        names = "RANK", "WORLD_SIZE", "LOCAL_RANK"
    elif int(environment.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in environment:
        names = "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"
        if "MASTER_ADDR" not in environment:
            raise RequestError(
                "srun started several tasks, but none says where to meet; set MASTER_ADDR to the first node's "
                "address and MASTER_PORT to a free port in the batch script"
            )
    else:
        return 0, 1, 0
    rank, size, local_rank = (int(environment.get(name, "0")) for name in names)
    return rank, size, local_rank
