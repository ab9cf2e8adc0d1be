"""Seconds from a killed rank to the next completed step: torchrun with a resume by hand, with the Trainer, adaptrun.

python benchmarks/restart.py [--rounds 5]

All fine-tune MiniLM on the demo's data with two processes, 32 samples a step, and save every 5 steps. Rank 1 is killed
after step 8; nobody does anything then. One that has made no step after two minutes counts as not come back.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
from measuring import interleaved, surroundings
from training import BIN, JOB, REPOSITORY

from launcher.commands.demo_data import write_demo_data
from launcher.run.events import EventTail, Step

STEPS, SAVE_EVERY, KILL_AFTER, PATIENCE = 400, 5, 8, 120.0
LOOPS = {
    "torchrun, resumed by hand": "benchmarks.loops.restarting",
    "torchrun, Hugging Face Trainer": "benchmarks.loops.restarting_trainer",
}
Ends = Callable[[], Iterator[float]]
"""When each step so far was over, in seconds since the epoch."""


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_demo_data(folder)
        contenders = {name: loop(module, folder) for name, module in LOOPS.items()} | {"adaptrun": adaptrun(folder)}
        figures = interleaved(contenders, options.rounds)
    print(f"\n{surroundings('torch', 'transformers')}\n")
    print("| | came back | seconds, median | lowest to highest | ratio to by hand |\n|---|---|---|---|---|")
    reference = statistics.median(figures[next(iter(LOOPS))])
    for name, values in figures.items():
        back = [value for value in values if math.isfinite(value)]
        if back:
            middle = statistics.median(back)
            spread = f"{middle:.1f} | {min(back):.1f} to {max(back):.1f} | {middle / reference:.2f}"
        else:
            spread = "– | – | –"
        print(f"| {name} | {len(back)} of {len(values)} | {spread} |")


def loop(module: str, folder: Path) -> Callable[[], float]:
    """A measure of one of the loops under torchrun, which may start it again three times."""
    work, ticks = folder / "work", folder / "ticks"
    data = folder / "film-reviews-train.csv"
    command = [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", "2", "--max-restarts", "3", "-m", module]

    def ends() -> Iterator[float]:
        lines = ticks.read_text().splitlines() if ticks.exists() else []
        return (float(line.split()[1]) for line in lines)

    def measure() -> float:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        ticks.unlink(missing_ok=True)
        return seconds_to_come_back([*command, str(data), str(STEPS), str(ticks), str(work)], module, ends)

    return measure


def adaptrun(folder: Path) -> Callable[[], float]:
    """A measure of `adaptrun train`, from the times of its own events."""
    job = JOB | {
        "name": "restart",
        "data": {"train": str(folder / "film-reviews-train.csv"), "cache": str(folder / "cache")},
        "checkpoint": {"every_steps": SAVE_EVERY},
        "launch": {"processes": 2, "device": "cpu", "runs": str(folder / "runs")},
    }
    file = folder / "restart.yaml"
    file.write_text(json.dumps(job))

    def ends() -> Iterator[float]:
        for events in (folder / "runs").glob("restart-*/metrics.jsonl"):
            yield from (event.time for event in EventTail(events).read() if isinstance(event, Step))

    def measure() -> float:
        shutil.rmtree(folder / "runs", ignore_errors=True)
        command = [str(BIN / "adaptrun"), "train", str(file), "--resume", "never"]
        return seconds_to_come_back(command, "launcher.worker", ends)

    return measure


def seconds_to_come_back(command: list[str], module: str, ends: Ends) -> float:
    """Start, kill rank 1 when it has made some steps, and wait for the next; infinity where none comes."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        begun = time.monotonic()
        while len(list(ends())) < KILL_AFTER:
            if process.poll() is not None or time.monotonic() - begun > PATIENCE:
                sys.exit(f"{' '.join(command)} made no {KILL_AFTER} steps")
            time.sleep(0.05)
        rank_1(process, module).kill()
        killed = time.time()
        while time.time() - killed < PATIENCE and process.poll() is None:
            after = [end for end in ends() if end > killed + 0.5]  # a step that was under way may still end
            if after:
                return after[0] - killed
            time.sleep(0.05)
        return math.inf
    finally:
        with suppress(psutil.NoSuchProcess):  # one that gave up has ended by itself
            for child in psutil.Process(process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    child.kill()
        process.kill()
        process.wait()


def rank_1(process: subprocess.Popen[bytes], module: str) -> psutil.Process:
    """The process of rank 1."""
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if module in child.cmdline() and child.environ().get("RANK") == "1":
                return child
    raise RuntimeError("there is no rank 1")


if __name__ == "__main__":
    main()
