"""Whether a node is fit, by what its driver and its disk say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from launcher.cluster import node_health
from launcher.cluster.node_health import GpuState, faults_of_this_node, gpu_faults, parse_gpu_state
from launcher.job.reading.job_file import load_job
from launcher.plan.plan import Plan
from launcher.plan.planner import make_plan
from tests.small_run import write_job

FIT = GpuState(3, "GPU-8f6f", 81559, 4, 0)


@pytest.fixture
def plan(tmp_path: Path, tiny_model: Path) -> Plan:
    """Of two ranks a node, on GPUs."""
    job = write_job(tmp_path, tiny_model)
    return replace(make_plan(load_job(job), job), device="cuda", processes=2)


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What nvidia-smi says of its GPUs' states, in a file; asked for their names, it shows as many."""
    said = tmp_path / "said"
    program = tmp_path / "commands" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\ncase "$1" in *uuid*) cat {said};; *) sed "s/.*/H100, 81559, 9.0/" {said};; esac\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return said


def test_a_line_of_the_driver_is_read() -> None:
    assert parse_gpu_state("3, GPU-8f6f, 81559, 4, 0") == FIT
    assert parse_gpu_state("3, GPU-8f6f, 81559, 4, [N/A]") == FIT
    assert parse_gpu_state("3, GPU-8f6f, 81559, 4, 12").uncorrected == 12


@pytest.mark.parametrize(
    ("gpu", "faults"),
    [
        (FIT, []),
        (replace(FIT, uncorrected=2), ["GPU 3 has 2 uncorrected ECC errors"]),
        (replace(FIT, used=20000), ["20000 of 81559 MiB of GPU 3 are used by other processes"]),
    ],
)
def test_errors_and_memory_that_is_taken_speak_against_a_gpu(gpu: GpuState, faults: list[str]) -> None:
    assert gpu_faults([gpu]) == faults


@pytest.mark.parametrize(
    ("listed", "ours"),
    [("3", True), ("0, 3", True), ("0,1", False), ("GPU-8f", True), ("MIG-1", False), ("", False), (None, True)],
)
def test_only_the_gpus_of_the_job_are_looked_at(listed: str | None, ours: bool) -> None:
    assert FIT.is_ours({} if listed is None else {"CUDA_VISIBLE_DEVICES": listed}) is ours


def test_a_node_names_all_that_speaks_against_it(plan: Plan, driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.write_text("0, GPU-a, 81559, 4, 0\n1, GPU-b, 81559, 4, 0\n2, GPU-c, 81559, 60000, 1\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert faults_of_this_node(plan) == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    monkeypatch.setattr(node_health, "MEGABYTES_FREE", 10**9)
    room, count, errors, memory = faults_of_this_node(plan)
    assert "MiB free" in room
    assert count == "it has 1 GPUs, and 2 are needed"
    assert errors == "GPU 2 has 1 uncorrected ECC errors"
    assert memory == "60000 of 81559 MiB of GPU 2 are used by other processes"


def test_without_a_driver_the_gpus_are_missing(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert faults_of_this_node(plan) == ["it has 0 GPUs, and 2 are needed"]
