"""A rank of `adaptrun doctor`: `python -m launcher.worker.requests.rank_check FOLDER DEVICE`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from launcher.run.folder import RunFolder, write_whole
from launcher.worker.rank.process import RankEnv, RankProcess

MINUTES = 2.0


def main() -> None:
    """Keep this rank's output before anything heavy is imported, then measure."""
    folder = RunFolder(Path(sys.argv[1]))
    process = RankProcess.here(folder)
    process.keep_output()
    process.run(lambda: probe(process.place, folder, sys.argv[2]))


def probe(place: RankEnv, folder: RunFolder, device: str) -> None:
    """Rank 0 writes the backend, the bandwidth of an all-reduce in GB/s, and what is wrong with DeepSpeed."""
    import torch
    import torch.distributed as dist

    from launcher.worker.rank.network_check import all_reduce_speed
    from launcher.worker.rank.world import World

    with World.at(place, device).joined(MINUTES) as world:
        speed = all_reduce_speed(world)
        problem, operations = _deepspeed(device)
        if world.is_first:
            found = {
                "backend": str(dist.get_backend_config()),
                "gigabytes_per_second": speed,
                "device": torch.cuda.get_device_name(world.device) if device == "cuda" else "",
                "deepspeed": problem,
                "operations": operations,
            }
            write_whole(folder.result_file, json.dumps(found))
        world.wait()


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


if __name__ == "__main__":
    main()
