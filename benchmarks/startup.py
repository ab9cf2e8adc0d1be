"""Seconds from the shell to the answer of commands that only look, beside importing torch alone.

python benchmarks/startup.py [--rounds 7]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import Measure, interleaved, surroundings, table

ADAPTRUN = str(Path(sys.executable).with_name("adaptrun"))
JOB = "{name: x, model: {pretrained: minilm}, task: text-classification, data: {train: train.csv}}"
REFERENCE = "import torch"


def timed(command: list[str], folder: Path) -> Measure:
    """A measure of the wall time of a command."""

    def measure() -> float:
        begun = time.perf_counter()
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - begun

    return measure


def main() -> None:
    """Measure and print the table."""
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
        for measure in contenders.values():
            measure()  # the first call reads from the disk
        figures = interleaved(contenders, rounds)
    print(f"\n{surroundings('torch')}\n\n{table(figures, 'seconds', REFERENCE)}")


if __name__ == "__main__":
    main()
