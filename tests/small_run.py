"""One finished run of two processes that many tests look at."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli import adaptrun
from tests.tiny import write_texts

JOB = """\
name: small
model: {{pretrained: {model}}}
task: text-classification
data:
  train: train.csv
  validation: {{near: near.csv, far: far.csv}}
  cache: cache
train:
  epochs: 3
  global_batch_size: 8
  max_length: 32
  optimizer: {{lr: 2e-3}}
validation: {{metric: accuracy}}
launch: {{processes: 2, device: cpu, max_restarts: 0}}
"""


def write_job(folder: Path, model: Path) -> Path:
    """A job file with its data."""
    write_texts(folder / "train.csv", 60)
    write_texts(folder / "near.csv", 25, seed=1)
    write_texts(folder / "far.csv", 13, seed=3, longest=5)
    (folder / "job.yaml").write_text(JOB.format(model=model))
    return folder / "job.yaml"


@dataclass(frozen=True)
class Trained:
    """A finished run, and what the command printed."""

    folder: Path
    printed: subprocess.CompletedProcess[str]

    @property
    def run(self) -> Path:
        return self.folder / "runs" / "small"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    write_job(folder, tiny_model)
    return Trained(folder, adaptrun("train", "job.yaml", cwd=folder))
