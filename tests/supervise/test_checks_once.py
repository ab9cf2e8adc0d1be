"""Rules and files of a job are checked once a start, by the one process that begins it, and by none of its ranks."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.cli import ADAPTRUN, ENVIRONMENT, PATIENCE, TORCHRUN, run
from tests.small_run import write_job

COUNTING = """\
import os, sys
from launcher.job.reading import job_file

def noted(name):
    checks = getattr(job_file, name)
    def noting(*arguments):
        with open(os.environ["CHECKS"], "a") as file:
            file.write(f"{name} {os.getpid()}\\n")
        return checks(*arguments)
    setattr(job_file, name, noting)

noted("broken_rules")
noted("resolve_paths")
"""
"""A `sitecustomize`, which each process of Python imports when it starts."""


@pytest.mark.parametrize(
    "command",
    [
        pytest.param((ADAPTRUN, "train"), id="adaptrun"),
        pytest.param(
            (TORCHRUN, "--nproc-per-node", "2", "-m", "launcher.worker"), id="by hand", marks=pytest.mark.slow
        ),
    ],
)
def test_a_start_of_two_processes_checks_its_job_once(
    command: tuple[str, ...], tmp_path: Path, tiny_model: Path
) -> None:
    write_job(tmp_path, tiny_model)
    (tmp_path / "counting").mkdir()
    (tmp_path / "counting" / "sitecustomize.py").write_text(COUNTING)
    checks = tmp_path / "checks"
    environment = ENVIRONMENT | {"PYTHONPATH": str(tmp_path / "counting"), "CHECKS": str(checks)}
    words = [*map(str, command), "job.yaml", "--set", "train.max_steps=1"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "runs/small/logs").glob("rank-*")} == {"rank-0.log", "rank-1.log"}
    assert Counter(line.split()[0] for line in checks.read_text().splitlines()) == {
        "broken_rules": 1,
        "resolve_paths": 1,
    }


@pytest.mark.slow
def test_by_hand_what_is_wrong_with_a_job_is_said_once_and_ends_all_ranks(tmp_path: Path, tiny_model: Path) -> None:
    write_job(tmp_path, tiny_model)
    words = (TORCHRUN, "--nproc-per-node", 2, "-m", "launcher.worker", "job.yaml", "--set", "validation.set=nowhere")
    said = run(*words, cwd=tmp_path, code=1).stderr
    assert said.count("there is no validation set 'nowhere'") == 1
    assert "rank 0 could not start the run" not in said
    assert not (tmp_path / "runs").exists()
