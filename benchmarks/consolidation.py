"""Consolidating a checkpoint of about 1 GB of weights: adaptrun beside DeepSpeed's zero_to_fp32 and torch's own.

python benchmarks/consolidation.py [--rounds 3]

The checkpoint is of ZeRO-3 on two ranks, after a step of AdamW; the same weights are saved by
torch.distributed.checkpoint too. adaptrun also reads back what it wrote and compares it; the others do not.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from measuring import interleaved, surroundings, table

REPOSITORY = Path(__file__).resolve().parent.parent
TORCHRUN = Path(sys.executable).parent / "torchrun"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def main() -> None:
    """Make the checkpoints, measure, print a table of time and one of memory for each kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        saved = {"a ZeRO-3 checkpoint": folder / "deepspeed", "a torch.distributed.checkpoint folder": folder / "dcp"}
        command = [str(TORCHRUN), "--standalone", "--nproc-per-node", "2", "-m", "benchmarks.loops.zero_checkpoint"]
        run([*command, *map(str, saved.values())])
        print(surroundings("torch", "deepspeed", "safetensors"))
        for (kind, source), peer in zip(saved.items(), ("zero_to_fp32", "dcp_to_torch_save"), strict=True):
            memory: dict[str, list[float]] = {peer: [], "adaptrun": []}
            ways = {name: way(name, source, folder / "target", memory[name]) for name in memory}
            seconds = interleaved(ways, options.rounds)
            print(f"\n{kind}:\n\n{table(seconds, 'seconds', peer)}\n\n{table(memory, 'MiB above imports', peer)}")


def way(name: str, source: Path, target: Path, memory: list[float]) -> Callable[[], float]:
    """A measure of seconds that notes memory beside."""

    def measure() -> float:
        said = run([sys.executable, "-m", "benchmarks.loops.consolidators", name, str(source), str(target)])
        shutil.rmtree(target) if target.is_dir() else target.unlink()
        figures = json.loads(said.splitlines()[-1])
        memory.append(figures["memory"])
        return float(figures["seconds"])

    return measure


def run(command: list[str]) -> str:
    """What a command prints; its errors end the benchmark."""
    done = subprocess.run(command, cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
