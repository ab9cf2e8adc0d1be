"""What all loops have in common: the job, its data and model, and the clock."""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from launcher.job.pretrained import find_pretrained
from launcher.job.schema import Model

WORLD = int(os.environ.get("WORLD_SIZE", "1"))
FIRST = os.environ.get("RANK", "0") == "0"
GLOBAL_BATCH, MAX_LENGTH, LR, CLIP = 32, 48, 1e-4, 1.0
ON_GPU, BF16 = os.environ.get("BENCHMARK_DEVICE") == "cuda", os.environ.get("BENCHMARK_PRECISION") == "bf16"
DEVICE = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if ON_GPU else torch.device("cpu")
MINILM = find_pretrained(Model(pretrained="minilm")).location


@dataclass
class Clock:
    """Notes when each step was over; the first few, which warm caches up, do not count."""

    steps: int
    warm_up: int = 3
    ends: list[float] = field(default_factory=list)

    def tick(self) -> bool:
        """Note the end of a step. Returns whether it was the last."""
        self.ends.append(time.perf_counter())
        return len(self.ends) == self.steps

    def report(self, place: Path) -> None:
        """Write samples a second of the whole world."""
        if FIRST:
            counted = self.ends[self.warm_up - 1 :]
            speed = GLOBAL_BATCH * (len(counted) - 1) / (counted[-1] - counted[0])
            place.write_text(json.dumps({"samples_per_second": speed}))


class Texts(Dataset[dict[str, Any]]):
    """The demo's training texts, tokenised before the clock starts."""

    def __init__(self, file: Path, tokenizer: Any) -> None:
        with file.open(newline="", encoding="utf-8") as opened:
            rows = list(csv.DictReader(opened))
        ids = tokenizer([row["text"] for row in rows], truncation=True, max_length=MAX_LENGTH)["input_ids"]
        self.samples = [
            {"input_ids": tokens, "labels": int(row["label"] == "positive")}
            for tokens, row in zip(ids, rows, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.samples[index]


def parts() -> tuple[Any, Any, Texts, Clock, Path]:
    """Model, tokenizer, data, clock, and where the figure goes; from `FILE STEPS OUTPUT` of the command line."""
    file, steps, output = sys.argv[1:4]
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(MINILM)
    model = AutoModelForSequenceClassification.from_pretrained(MINILM, num_labels=2)
    return model, tokenizer, Texts(Path(file), tokenizer), Clock(int(steps)), Path(output)


def forever(loader: DataLoader[Any]) -> Iterator[Any]:
    """Batch after batch, epoch after epoch."""
    while True:
        yield from loader
