"""Seconds from the shell to the answer of commands that only look, and to the end of a run of one step.

python benchmarks/startup.py [--rounds 7]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import Measure, interleaved, surroundings, table

from launcher.run.forking import FORK_SERVER

ADAPTRUN = str(Path(sys.executable).with_name("adaptrun"))
JOB = """
name: x
model: {pretrained: minilm}
task: text-classification
data: {train: train.csv, cache: cache}
train: {max_steps: 1, global_batch_size: 8, max_length: 16}
launch: {processes: 2, device: cpu}
"""
REFERENCE = "import torch"
FRESH = "each rank an interpreter of its own"


def timed(command: list[str], folder: Path, **environment: str) -> Measure:
    """A measure of the wall time of a command."""

    def measure() -> float:
        begun = time.perf_counter()
        subprocess.run(
            command,
            cwd=folder,
            env=os.environ | environment,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return time.perf_counter() - begun

    return measure


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "train.csv").write_text("text,label\n" + "some text of a review,positive\n" * 1000)
        (folder / "job.yaml").write_text(JOB)
        contenders = {
            REFERENCE: timed([sys.executable, "-c", "import torch"], folder),
            "adaptrun --help": timed([ADAPTRUN, "--help"], folder),
            "adaptrun check job.yaml": timed([ADAPTRUN, "check", "job.yaml"], folder),
            "adaptrun plan job.yaml": timed([ADAPTRUN, "plan", "job.yaml"], folder),
        }
        train = [ADAPTRUN, "train", "job.yaml", "--resume", "never"]
        runs = {FRESH: timed(train, folder, **{FORK_SERVER: ""}), "adaptrun train job.yaml": timed(train, folder)}
        for measure in (contenders | runs).values():
            measure()  # the first call reads from the disk
        looking, training = interleaved(contenders, rounds), interleaved(runs, rounds)
    print(f"\n{surroundings('torch', 'transformers')}\n\n{table(looking, 'seconds', REFERENCE)}")
    print(f"\nA run of one step on two processes:\n\n{table(training, 'seconds', FRESH)}")


if __name__ == "__main__":
    main()
