"""The world a rank finds itself in, and what the ranks say to each other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import HashStore  # type: ignore[attr-defined]

from launcher.run.heartbeats import Pulse
from launcher.run.network import interface_towards
from launcher.worker.process import Place


@dataclass(frozen=True)
class World:
    """Who this rank is, and on which device it computes.

    rank, size: in the whole world
    local_rank: on this machine
    pulse: tells whoever started this rank when it waits for others
    leader: where the ranks of several machines meet; empty where all are on this one
    """

    rank: int = 0
    local_rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    pulse: Pulse = field(default_factory=Pulse)
    leader: str = ""

    @classmethod
    def at(cls, place: Place, device: str, pulse: Pulse | None = None) -> World:
        """The world of a process at `place`; on `cuda` each local rank has its own GPU."""
        if device == "cuda":
            here = torch.device("cuda", place.local_rank % torch.cuda.device_count())
        else:
            here = torch.device("cpu")
        return cls(place.rank, place.local_rank, place.size, here, pulse or Pulse(), place.leader)

    @property
    def is_first(self) -> bool:
        """Whether this rank writes what is written once."""
        return self.rank == 0

    @contextmanager
    def joined(self, timeout_minutes: float) -> Iterator[World]:
        """Inside, the ranks can talk; a rank that is alone talks to itself, as engines that shard expect."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        # cuDNN rounds to tf32 unless told otherwise; a job that allows it says so later
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        with self.pulse.waiting("meeting of all ranks"):
            self._join(timeout_minutes)
        if dist.get_world_size() != self.size:
            raise RuntimeError(f"{self.size} processes were asked for and {dist.get_world_size()} joined")
        yield self
        dist.destroy_process_group()  # not after a failure: it can wait for ranks that are gone

    def _join(self, timeout_minutes: float) -> None:
        interface = interface_towards(self.leader) if self.leader else None
        if interface is not None:  # gloo else looks up this machine's own name, which may be the loopback
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo",
            store=HashStore() if self.size == 1 else None,
            timeout=timedelta(minutes=timeout_minutes),
            rank=self.rank,
            world_size=self.size,
        )

    def sum(self, values: Sequence[float] | Tensor) -> Tensor:
        """Sum over the ranks in float64: a vector on the CPU, the same on every rank."""
        total = torch.as_tensor(values, dtype=torch.float64).to("cpu", copy=True)
        if self.size > 1:
            with self.pulse.waiting("sum over the ranks"):
                dist.all_reduce(total)
        return total

    def on_first(self, rows: Tensor) -> list[Tensor] | None:
        """Every rank's float64 rows [own, columns], on rank 0; None on the others."""
        if self.size == 1:
            return [rows]
        counts = self.sum(torch.eye(self.size, dtype=torch.float64)[self.rank] * len(rows)).long().tolist()
        filled = torch.zeros((max(counts), rows.shape[1]), dtype=torch.float64)
        filled[: len(rows)] = rows
        parts = [torch.empty_like(filled) for _ in counts] if self.is_first else None
        with self.pulse.waiting("rows of all ranks"):
            dist.gather(filled, parts)
        return parts and [part[:count] for part, count in zip(parts, counts, strict=True)]

    def from_first(self, value: str | None) -> str | None:
        """What rank 0 holds, on every rank."""
        held = [value]
        if self.size > 1:
            with self.pulse.waiting("word of rank 0"):
                dist.broadcast_object_list(held, src=0)
        return held[0]

    def wait(self) -> None:
        """Return when every rank has come here."""
        if self.size > 1:
            with self.pulse.waiting("wait for all ranks"):
                dist.barrier()
