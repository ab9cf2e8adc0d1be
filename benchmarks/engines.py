"""Time of a step through our engines against the bare libraries: DDP, FSDP2, DeepSpeed ZeRO 1 to 3, two processes.

python benchmarks/engines.py [--steps 96] [--engines ddp fsdp …]

A step is forward, backward, clipping and AdamW on 8 × 64 tokens a process, fp32. Bare and ours take turns of 4 steps
within one world; the ratio is the median over pairs of turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from measuring import surroundings

REPOSITORY = Path(__file__).resolve().parent.parent
TORCHRUN = Path(sys.executable).parent / "torchrun"


def main() -> None:
    """Measure each engine and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=96)
    parser.add_argument("--engines", nargs="+", default=["ddp", "fsdp", "zero1", "zero2", "zero3"])
    options = parser.parse_args()
    print(surroundings("torch", "deepspeed", "transformers"))
    print("\n| engine | bare, ms a step, median | adaptrun, ms a step, median | ratio of times |\n|---|---|---|---|")
    for name in options.engines:
        with tempfile.NamedTemporaryFile("r", suffix=".json") as output:
            command = [str(TORCHRUN), "--standalone", "--nproc-per-node", "2", "-m", "benchmarks.loops.engines"]
            environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
            words = [*command, name, str(options.steps), output.name]
            done = subprocess.run(words, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stderr}")
            seconds = json.loads(Path(output.name).read_text())
        ratio = statistics.median(ours / bare for ours, bare in zip(seconds["adaptrun"], seconds["bare"], strict=True))
        bare, ours = (1000 * statistics.median(seconds[side]) for side in ("bare", "adaptrun"))
        print(f"| {name} | {bare:.1f} | {ours:.1f} | {ratio:.3f} |", flush=True)


if __name__ == "__main__":
    main()
