"""The process group of a rank, and its collectives."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import HashStore, PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from launcher.engines.mesh import process_count
from launcher.errors import RequestError
from launcher.plan.mesh import Mesh
from launcher.run.heartbeats import Heartbeat
from launcher.run.network import interface_of, interface_towards
from launcher.run.rendezvous import LISTENER, LOOPBACK, TOKEN
from launcher.worker.rank.process import RankEnv


@dataclass(frozen=True)
class World:
    """This rank and its device.

    rank, size: among all processes
    local_rank: on this machine
    heartbeat: reports to the launcher when this rank waits for others
    leader: rendezvous address of the ranks of several machines; empty if all are on this one
    arrangement: the device mesh; None if each rank has its own samples
    """

    rank: int = 0
    local_rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    heartbeat: Heartbeat = field(default_factory=Heartbeat)
    leader: str = ""
    arrangement: Mesh | None = None

    @classmethod
    def at(
        cls, place: RankEnv, device: str, heartbeat: Heartbeat | None = None, arrangement: Mesh | None = None
    ) -> World:
        """The world of a process with the environment `place`; on `cuda` each local rank has its own GPU."""
        if device == "cuda":
            here = torch.device("cuda", place.local_rank % torch.cuda.device_count())
        else:
            here = torch.device("cpu")
        return cls(place.rank, place.local_rank, place.size, here, heartbeat or Heartbeat(), place.leader, arrangement)

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes files that are written once."""
        return self.rank == 0

    @property
    def mesh(self) -> Mesh:
        """How the ranks are arranged."""
        return self.arrangement or Mesh(replicate=self.size)

    @property
    def data_size(self) -> int:
        """Number of parts into which samples are split."""
        return self.mesh.data_size

    @property
    def data_rank(self) -> int:
        """The part of this rank, which other ranks may share."""
        return self.mesh.data_rank(self.rank)

    @property
    def speaks_for_data(self) -> bool:
        """Whether this rank reports the results of its samples: the first of the ranks with the same samples."""
        return self.mesh.speaks_for_data(self.rank)

    @contextmanager
    def joined(self, timeout_minutes: float) -> Iterator[World]:
        """Join the process group; a single rank has a group of one, which sharding engines need."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        # cuDNN uses tf32 by default; a job that allows it enables it later
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        with self.heartbeat.waiting("rendezvous of all ranks"):
            self._join(timeout_minutes)
        if process_count() != self.size:
            raise RuntimeError(f"{self.size} processes were requested and {process_count()} joined")
        yield self
        dist.destroy_process_group()  # not after a failure: it could wait for dead ranks

    def _join(self, timeout_minutes: float) -> None:
        timeout = timedelta(minutes=timeout_minutes)
        interface = interface_towards(self.leader) if self.leader else interface_of(LOOPBACK)
        if interface is not None:  # gloo would resolve this machine's name, which may give any of its addresses
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
            if not self.leader:
                os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo",
            store=HashStore() if self.size == 1 else _store(self.rank, self.size, bool(self.leader), timeout),
            timeout=timeout,
            rank=self.rank,
            world_size=self.size,
        )

    def sum(self, values: Sequence[float] | Tensor) -> Tensor:
        """Sum over all processes in float64: a vector on the CPU, the same on every rank."""
        total = torch.as_tensor(values, dtype=torch.float64).to("cpu", copy=True)
        if self.size > 1:
            with self.heartbeat.waiting("sum over the ranks"):
                dist.all_reduce(total)
        return total

    def once(self, values: Sequence[float]) -> list[float]:
        """This rank's values for `sum`, or zeros if another rank reports the same samples."""
        return [float(value) if self.speaks_for_data else 0.0 for value in values]

    def sum_over_data(self, values: Tensor) -> Tensor:
        """Sum over all samples in float64, from each rank's sum over its own; the same on every rank."""
        return self.sum(values if self.speaks_for_data else torch.zeros_like(values))

    def on_first(self, rows: Tensor) -> list[Tensor] | None:
        """The float64 rows [own, columns] of all samples, each reported by one rank, on rank 0; None on the others."""
        if self.size == 1:
            return [rows]
        own = rows if self.speaks_for_data else rows[:0]
        counts = self.sum(torch.eye(self.size, dtype=torch.float64)[self.rank] * len(own)).long().tolist()
        filled = torch.zeros((max(counts), rows.shape[1]), dtype=torch.float64)
        filled[: len(own)] = own
        parts = [torch.empty_like(filled) for _ in counts] if self.is_first else None
        with self.heartbeat.waiting("rows of all ranks"):
            dist.gather(filled, parts)
        return parts and [part[:count] for part, count in zip(parts, counts, strict=True)]

    def from_first(self, value: str | None) -> str | None:
        """Rank 0's value, on every rank."""
        held = [value]
        if self.size > 1:
            with self.heartbeat.waiting("broadcast from rank 0"):
                dist.broadcast_object_list(held, src=0)
        return held[0]

    def wait(self) -> None:
        """A barrier."""
        if self.size > 1:
            with self.heartbeat.waiting("wait for all ranks"):
                dist.barrier()


def _store(rank: int, size: int, on_several: bool, timeout: timedelta) -> Store | None:
    """The store of rank 0 for the rendezvous; None leaves it to torch, which listens on all addresses.

    adaptrun's launcher passes its ranks a socket for it. For other ranks on one machine, rank 0 binds one to
    MASTER_ADDR; torchrun has its own store. Raises RequestError.
    """
    token, listener = os.environ.pop(TOKEN, ""), os.environ.pop(LISTENER, "")
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT", "")
    if not address or not port.isdecimal():
        raise RequestError(
            f"{size} processes were started without a rendezvous address; set MASTER_ADDR to the address "
            "of the first one's machine and MASTER_PORT to a free port there, or start them with torchrun"
        )
    if not token and (on_several or "TORCHELASTIC_USE_AGENT_STORE" in os.environ):
        return None
    if not token and rank == 0:
        listener = str(_bound_to(address, int(port)))
    store = TCPStore(
        address,
        int(port),
        size,
        is_master=rank == 0,
        timeout=timeout,
        master_listen_fd=int(listener) if rank == 0 else None,
    )
    return PrefixStore(token, store) if token else store


def _bound_to(address: str, port: int) -> int:
    """File descriptor of a socket that listens only there. Raises RequestError."""
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return socket.create_server((address, port), family=family, backlog=1024).detach()
    except OSError as error:
        raise RequestError(
            f"cannot listen at {address}:{port} (MASTER_ADDR and MASTER_PORT): {error}; use an address "
            "of this machine and a free port"
        ) from error
