"""Measure the network between the machines of a run before training, and report slow machines.

An all-reduce of some MiB over all ranks gives the speed for training. Then the first ranks of neighbouring machines
exchange data, in a ring. A machine is slow if both of its links are slow and its neighbours' other links are not.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from launcher.errors import RunFailed
from launcher.run.unhealthy import report_unhealthy
from launcher.worker.rank.run_context import RunContext
from launcher.worker.rank.world import World

BYTES, REPEATS = 2**23, 3
SLOW = 0.2
"""A machine's links are slow below this fraction of the median speed of the other machines' links."""
LEAST = 3
"""Minimum number of machines for which a slow one can be distinguished from its neighbours."""


@dataclass(frozen=True)
class NetworkSpeeds:
    """Speeds in GB/s, the same on every rank.

    nodes: names of the machines, in the order of their ranks
    all_reduce: of the bytes that each rank contributes
    ring: of the link from each machine to the next, and from the last to the first
    """

    nodes: tuple[str, ...]
    all_reduce: float
    ring: tuple[float, ...]

    @property
    def slow_nodes(self) -> tuple[str, ...]:
        """Machines whose two links are both slow."""
        if len(self.nodes) < LEAST:
            return ()
        return tuple(node for number, node in enumerate(self.nodes) if self._is_slow(number))

    def _is_slow(self, number: int) -> bool:
        own = {number, (number - 1) % len(self.nodes)}
        others = [speed for link, speed in enumerate(self.ring) if link not in own]
        return max(self.ring[link] for link in own) < SLOW * statistics.median(others)

    def __str__(self) -> str:
        links = f"; the links of {len(self.nodes)} machines run at {min(self.ring):.2f} to {max(self.ring):.2f} GB/s"
        return (
            f"an all-reduce of {BYTES / 2**20:.0f} MiB runs at {self.all_reduce:.2f} GB/s{links if self.ring else ''}"
        )

    @classmethod
    def measured(cls, world: World, node: str) -> NetworkSpeeds:
        """Measure with all ranks. `node`: name of this rank's machine."""
        names: list[str] = [""] * world.size
        if world.size > 1:
            with world.heartbeat.waiting("names of all machines"):
                dist.all_gather_object(names, node)
        nodes = tuple(dict.fromkeys(names)) if world.size > 1 else (node,)
        leaders = [names.index(name) for name in nodes] if world.size > 1 else [0]
        with world.heartbeat.waiting("test of the links"):
            summed = all_reduce_speed(world)
            own = _ring(world, leaders)
        shared = world.sum([own.get(link, 0.0) for link in range(len(nodes))]).tolist()
        slowest = world.sum([summed / world.size]).item()  # nearly the same on each rank
        return cls(nodes, slowest, tuple(shared) if len(nodes) > 1 else ())


def check_network(context: RunContext, node: str) -> None:
    """Measure, and record slow machines. Raises RunFailed on all ranks if there are any.

    node: name of this rank's machine
    """
    links = NetworkSpeeds.measured(context.world, node)
    context.log.note(str(links))
    if not links.slow_nodes:
        return
    if context.world.is_first:
        for slow in links.slow_nodes:
            report_unhealthy(context.folder, slow, [f"both of its links are slow: {links}"])
    raise RunFailed(
        f"the network links of {', '.join(links.slow_nodes)} are slower than those of the other machines: {links}"
    )


def all_reduce_speed(world: World) -> float:
    """GB/s of the bytes that each rank contributes to a sum, the best of several."""
    values = torch.ones(BYTES // 4, device=world.device)

    def add() -> None:
        dist.all_reduce(values)
        values.fill_(1.0)

    return BYTES / _best(add, world.device) / 1e9


def _ring(world: World, leaders: Sequence[int]) -> dict[int, float]:
    """GB/s of the links that this rank measured, by the number of the machine that they start from.

    Links that share no machine are measured concurrently: the even ones, the odd ones, and the last of an odd ring.
    """
    count = len(leaders)
    links = [] if count < 2 else list(range(count if count > 2 else 1))
    turns = [[i for i in links if i % 2 == parity and not (i == count - 1 and count % 2)] for parity in (0, 1)]
    turns.append([i for i in links if i == count - 1 and count % 2])
    found: dict[int, float] = {}
    for turn in turns:
        for link in turn:
            pair = leaders[link], leaders[(link + 1) % count]
            if world.rank in pair:
                speed = _exchange_speed(world, pair[1] if world.rank == pair[0] else pair[0])
                if world.rank == pair[0]:
                    found[link] = speed
        dist.barrier()
    if count == 2 and 0 in found:
        found[1] = found[0]
    return found


def _exchange_speed(world: World, other: int) -> float:
    """GB/s in each direction while two ranks send to each other, the best of several."""
    given, taken = (torch.ones(BYTES // 4, device=world.device) for _ in range(2))

    def exchange() -> None:
        _send_and_receive(given, taken, other)

    return BYTES / _best(exchange, world.device, warm_up=True) / 1e9


def _send_and_receive(given: Tensor, taken: Tensor, other: int) -> None:
    operations = [dist.P2POp(dist.isend, given, other), dist.P2POp(dist.irecv, taken, other)]
    for request in dist.batch_isend_irecv(operations):
        request.wait()


def _best(work: Callable[[], None], device: torch.device, warm_up: bool = False) -> float:
    """Seconds of the fastest of several times."""
    seconds = []
    for _ in range(REPEATS + warm_up):
        _finish(device)
        begun = time.perf_counter()
        work()
        _finish(device)
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
