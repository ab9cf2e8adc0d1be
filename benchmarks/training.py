"""Training samples a second on the demo's data: by hand, the Hugging Face Trainer, accelerate, Lightning, adaptrun.

python benchmarks/training.py [--rounds 3] [--steps 20] [--device cuda] [--precision bf16]

All fine-tune MiniLM in one precision with fused AdamW, clipping, 32 samples a step and 48 tokens at most, on the same
threads. The clock runs from the end of the third step to the end of the last, so starting does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from measuring import Measure, interleaved, surroundings, table

from launcher.commands.demo_data import write_demo_data
from launcher.plan.hardware import find_hardware
from launcher.run.events import EventTail, Step

REPOSITORY = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
WARM_UP = 3
LOOPS = {
    "PyTorch by hand": "benchmarks.loops.plain",
    "Hugging Face Trainer": "benchmarks.loops.trainer",
    "accelerate": "benchmarks.loops.accelerated",
    "Lightning": "benchmarks.loops.lightning_module",
}
JOB = {
    "name": "speed",
    "model": {"pretrained": "minilm"},
    "task": "text-classification",
    "train": {
        "epochs": 100,
        "global_batch_size": 32,
        "max_length": 48,
        "optimizer": {"lr": 1e-4},
        "schedule": {"name": "linear"},
    },
    "checkpoint": {"every_steps": 10**6},
}


@dataclass(frozen=True)
class Where:
    """What all of them compute on, and in which precision."""

    device: str
    precision: str

    @property
    def worlds(self) -> list[int]:
        """Numbers of processes: one, and two on CPUs or one for each GPU."""
        return sorted({1, len(find_hardware().gpus) if self.device == "cuda" else 2})

    @property
    def environment(self) -> dict[str, str]:
        """What tells the loops."""
        return {"BENCHMARK_DEVICE": self.device, "BENCHMARK_PRECISION": self.precision}


def main() -> None:
    """Measure and print a table for each number of processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    options = parser.parse_args()
    where = Where(options.device, options.precision)
    tables = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_demo_data(folder)
        data = folder / "film-reviews-train.csv"
        for processes in where.worlds:
            print(f"{processes} process(es)")
            contenders = {
                name: loop(module, processes, where, data, options.steps, folder) for name, module in LOOPS.items()
            }
            contenders["adaptrun"] = adaptrun(processes, where, data, options.steps, folder)
            tables.append((processes, table(interleaved(contenders, options.rounds), "samples/s", next(iter(LOOPS)))))
    print(f"\n{options.precision}; {surroundings('torch', 'transformers', 'accelerate', 'lightning')}")
    for processes, made in tables:
        print(f"\n{processes} process{'es' if processes > 1 else ''}:\n\n{made}")


def loop(module: str, processes: int, where: Where, data: Path, steps: int, folder: Path) -> Measure:
    """A measure of one of the loops, under torchrun where there are several processes."""
    output = folder / "figure.json"
    command = [sys.executable, "-m", module]
    if processes > 1:
        command = [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", str(processes), "-m", module]

    def measure() -> float:
        run([*command, str(data), str(steps), str(output)], processes, **where.environment)
        return float(json.loads(output.read_text())["samples_per_second"])

    return measure


def adaptrun(processes: int, where: Where, data: Path, steps: int, folder: Path) -> Measure:
    """A measure of `adaptrun train`, from the times of its own events."""
    job = JOB | {
        "data": {"train": str(data), "cache": str(folder / "cache")},
        "train": JOB["train"] | {"max_steps": steps, "precision": where.precision},
        "launch": {"processes": processes, "device": where.device, "runs": str(folder / "runs")},
    }
    file = folder / f"speed-{processes}.yaml"
    file.write_text(json.dumps(job))

    def measure() -> float:
        run([str(BIN / "adaptrun"), "train", str(file), "--resume", "never"], processes)
        events = EventTail(folder / "runs" / "speed" / "metrics.jsonl").read()
        counted = [event for event in events if isinstance(event, Step)][WARM_UP - 1 :]
        return sum(step.samples for step in counted[1:]) / (counted[-1].time - counted[0].time)

    return measure


def run(command: list[str], processes: int, **variables: str) -> None:
    """Run a contender with its share of the cores."""
    threads = max(1, find_hardware().cores // processes)
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **variables,
    }
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")


if __name__ == "__main__":
    main()
