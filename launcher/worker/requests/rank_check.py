"""`adaptrun doctor`: check the rendezvous, the bandwidth and the libraries of ranks on this machine."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist

from launcher.job.requests import RankCheckAnswer, RankCheckRequest
from launcher.worker.rank.network_check import all_reduce_speed
from launcher.worker.rank.process import RankProcess
from launcher.worker.rank.world import World

MINUTES = 2.0


def serve(process: RankProcess, request: RankCheckRequest) -> RankCheckAnswer:
    """The backend, the bandwidth of an all-reduce in GB/s, and what is wrong with DeepSpeed."""
    with World.at(process.place, request.device).joined(MINUTES) as world:
        speed = all_reduce_speed(world)
        problem, operations = _deepspeed(request.device)
        found = RankCheckAnswer(
            backend=str(dist.get_backend_config()),
            gigabytes_per_second=speed,
            device=torch.cuda.get_device_name(world.device) if request.device == "cuda" else "",
            deepspeed=problem,
            operations=operations,
        )
        world.wait()
    return found


def _deepspeed(device: str) -> tuple[str, str]:
    """The problem, if any, and the version with the operations that can be compiled here."""
    if device == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        import deepspeed
        from deepspeed import ops
    except Exception as error:  # any error is the finding
        return f"{type(error).__name__}: {error}", ""
    able = sorted(name for name, compatible in ops.__compatible_ops__.items() if compatible)
    return "", f"{deepspeed.__version__}; operations that can be compiled here: {', '.join(able) or 'none'}"
