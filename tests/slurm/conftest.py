"""One cluster for all tests that are marked `slurm`, and one undisturbed run to compare with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli import ENVIRONMENT, adaptrun
from tests.slurm.cluster import Cluster, missing
from tests.tiny import write_texts

JOB = """\
name: small
model: {{pretrained: 'own.py:build', tokenizer: '{model}'}}
task: text-classification
data: {{train: train.csv, validation: dev.csv, cache: cache}}
train:
  epochs: 3
  global_batch_size: 8
  max_length: 32
  optimizer: {{lr: 2e-3}}
validation: {{every: 10}}
checkpoint: {{every_steps: 5, result: last}}
launch: {{processes: 4, device: cpu, patience: 0.2, timeout: 2}}
"""
OWN = """\
import os, time
from transformers import AutoModelForSequenceClassification

def build(labels):
    model = AutoModelForSequenceClassification.from_pretrained({model!r}, num_labels=len(labels))
    def before(module, inputs):
        if module.training:
            time.sleep(float(open({pace!r}).read()))
    model.register_forward_pre_hook(before)
    return model
"""
"""A model whose steps take as long as a file says."""
PROFILE = "{{nodes: 2, processes_per_node: {ranks}, cpus_per_node: {ranks}, time: '10', signal_seconds: 60}}\n"


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of two nodes, ended with the tests. Skips where there can be none."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    folder = Path("/tmp/adaptrun-slurm")  # always the same, so that what a killed test left is found and ended
    cluster = Cluster(folder)
    ENVIRONMENT.update(cluster.environment)
    os.environ.update(cluster.environment)
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path) -> Path:
    """A job of 24 steps on two nodes; `pace` holds the seconds of each."""
    write_job(tmp_path, tiny_model)
    return tmp_path


def write_job(folder: Path, model: Path) -> None:
    """The job, its data, its model and a profile."""
    write_texts(folder / "train.csv", 60)
    write_texts(folder / "dev.csv", 15, seed=1)
    (folder / "pace").write_text("0")
    (folder / "own.py").write_text(OWN.format(model=str(model), pace=str(folder / "pace")))
    (folder / "job.yaml").write_text(JOB.format(model=model))
    (folder / "profile.yaml").write_text(PROFILE.format(ranks=1))
    (folder / "profile-of-four.yaml").write_text(PROFILE.format(ranks=2))


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The same job run here, with two processes and nobody disturbing it."""
    return run_here(tmp_path_factory.mktemp("reference"), tiny_model, 2)


@pytest.fixture(scope="session")
def reference_of_four(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """And with four."""
    return run_here(tmp_path_factory.mktemp("reference-of-four"), tiny_model, 4)


def run_here(folder: Path, model: Path, processes: int) -> Path:
    """Train without a cluster; gives the run."""
    write_job(folder, model)
    adaptrun("train", "job.yaml", "--set", f"launch.processes={processes}", cwd=folder)
    return folder / "runs" / "small"
