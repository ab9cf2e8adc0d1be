"""A token-weighted loss of the same ragged responses: by hand, with adaptrun and with the Hugging Face Trainer.

python benchmarks/token_loss.py

Two global batches of prompts with responses of 1 to 12 tokens, cut unevenly over ranks and micro-batches; a third holds
one sample. The truth is the mean over all response tokens of a global batch. Printed is the largest relative difference
of the loss and of the gradient's norm from it, in whole steps and in the last, short one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from loops.responses import BATCH, LR, MICRO_BATCH, SAMPLES, SEED, truth, write_material
from measuring import surroundings

from launcher.run.events import EventTail, Step

REPOSITORY = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
Figures = list[tuple[float, float]]


def main() -> None:
    """Run all and print a table."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_material(folder)
        expected = truth(folder)
        rows = []
        for processes in (1, 2):
            found = {"adaptrun": adaptrun(folder, processes), "Hugging Face Trainer": trainer(folder, processes)}
            rows += [(name, processes, *differences(figures, expected)) for name, figures in found.items()]
    print(surroundings("torch", "transformers", "accelerate"))
    print("\n| | processes | loss | gradient norm | loss, last step | gradient norm, last step |")
    print("|---|---|---|---|---|---|")
    for name, processes, *figures in rows:
        print(f"| {name} | {processes} | {' | '.join(f'{figure:.1e}' for figure in figures)} |")


def differences(found: Figures, expected: Figures) -> list[float]:
    """The largest relative ones: of losses and of norms, in all steps but the last, then in the last."""
    assert len(found) == len(expected), f"{len(found)} steps where {len(expected)} are expected"
    *whole, last = zip(found, expected, strict=True)
    return [max(abs(one[i] / other[i] - 1) for one, other in pairs) for pairs in (whole, [last]) for i in (0, 1)]


def adaptrun(folder: Path, processes: int) -> Figures:
    """Losses and gradient norms of `adaptrun train`."""
    job: dict[str, Any] = {
        "name": "responses",
        "model": {"pretrained": str(folder / "model")},
        "task": "causal-lm",
        "data": {
            "train": {"source": str(folder / "train.jsonl"), "prompt": "prompt", "response": "response"},
            "cache": str(folder / "cache"),
        },
        "train": {
            "epochs": 1,
            "global_batch_size": BATCH,
            "micro_batch_size": MICRO_BATCH,
            "max_length": 64,
            "seed": SEED,
            "precision": "fp32",
            "clip_norm": None,
            "optimizer": {"name": "sgd", "lr": LR, "weight_decay": 0.0},
            "schedule": {"name": "constant"},
        },
        "checkpoint": {"result": "last"},
        "launch": {"processes": processes, "device": "cpu", "runs": str(folder / f"runs-{processes}")},
    }
    file = folder / f"job-{processes}.json"
    file.write_text(json.dumps(job))
    run([str(BIN / "adaptrun"), "train", str(file)])
    events = EventTail(folder / f"runs-{processes}" / "responses" / "metrics.jsonl").read()
    return [(event.loss, event.gradient_norm) for event in events if isinstance(event, Step)]


def trainer(folder: Path, processes: int) -> Figures:
    """The same of the Hugging Face Trainer, with its own defaults for token losses."""
    output = folder / f"trainer-{processes}.json"
    command = [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", str(processes), "-m"]
    run([*command, "benchmarks.loops.responses", str(folder), str(output)])
    return [(loss, norm) for loss, norm in json.loads(output.read_text())]


def run(command: list[str]) -> None:
    """Run a command to its end."""
    done = subprocess.run(command, cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")


if __name__ == "__main__":
    assert SAMPLES % BATCH == 1
    main()
