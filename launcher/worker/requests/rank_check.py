"""`adaptrun doctor`: whether ranks meet on this machine, how fast they talk, and what their libraries can do."""

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
    """What is wrong, and which operations could be compiled here."""
    if device == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        import deepspeed
        from deepspeed import ops
    except Exception as error:  # whatever is wrong with it is the finding
        return f"{type(error).__name__}: {error}", ""
    able = sorted(name for name, compatible in ops.__compatible_ops__.items() if compatible)
    return "", f"{deepspeed.__version__}; can be compiled here: {', '.join(able) or 'no operation'}"
