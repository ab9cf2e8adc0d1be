"""What `adaptrun doctor` finds on this machine, and on machines that something is amiss with."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from launcher.commands import doctor
from launcher.commands.doctor import Finding
from launcher.errors import ExitCode
from tests.cli import ENVIRONMENT, adaptrun, start, wait_until


def by_name(findings: Iterator[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


@pytest.fixture
def scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `scontrol ping` says, in a file; whether SLURM is installed here does not matter."""
    folder = tmp_path / "commands"
    folder.mkdir()
    for name in ("sbatch", "scontrol"):
        (folder / name).write_text(f"#!/bin/sh\ncat {folder}/said\n")
        (folder / name).chmod(0o755)
    (folder / "said").write_text("Slurmctld(primary) at login is UP\n")
    path = f"{folder}:{ENVIRONMENT['PATH']}"
    monkeypatch.setenv("PATH", path)
    monkeypatch.setitem(ENVIRONMENT, "PATH", path)
    return folder / "said"


def test_this_machine_is_looked_at_with_ranks_that_talk(scheduler: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    found = {finding["name"]: finding for finding in json.loads(adaptrun("doctor", "--json", cwd=here).stdout)}
    assert found["ranks"]["state"] in ("good", "warning")
    assert "2 ranks connect over" in found["ranks"]["found"]
    assert found["DeepSpeed"]["state"] == "good"
    for name in ("python", "torch", "transformers", "cores", "file system", "disk here", "SLURM"):
        assert found[name]["state"] == "good"
    assert not list(here.iterdir())


def test_an_end_before_its_time_is_no_finding(scheduler: Path, tmp_path: Path) -> None:
    doing = start("doctor", cwd=tmp_path)
    wait_until(lambda: len(psutil.Process(doing.pid).children()) == 2, doing)  # the ranks
    doing.send_signal(signal.SIGINT)
    assert doing.wait(60) == ExitCode.STOPPED
    assert "stopped while ranks were tested; nothing is kept" in (tmp_path / "stderr").read_text()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which nobody can write")
def test_what_is_bad_comes_with_a_fix_and_exit_code_1(scheduler: Path) -> None:
    lines = adaptrun("doctor", cwd=Path("/proc"), code=1).stdout.splitlines()
    (bad,) = [number for number, line in enumerate(lines) if line.startswith("bad")]
    assert "file system" in lines[bad]
    assert "fix: start in a folder that you may write to" in lines[bad + 1]


def test_an_old_and_an_absent_package_are_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import PackageNotFoundError

    def version(package: str) -> str:
        if package == "datasets":
            raise PackageNotFoundError(package)
        return {"torch": "2.7.1+cu128", "transformers": "10.0.0"}.get(package, "1.0")

    monkeypatch.setattr(doctor, "version", version)
    found = by_name(doctor._packages())
    assert (found["torch"].state, found["torch"].fix) == ("bad", "pip install 'torch>=2.8'")
    assert (found["datasets"].state, found["datasets"].found) == ("bad", "not installed")
    assert found["transformers"].state == "good"


def test_renames_that_are_seen_half_done_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._renames_seen_in_part(tmp_path / "file") == 0

    def write_in_parts(file: Path, text: str) -> None:
        with file.open("w", buffering=1) as opened:
            for part in (text[:100], text[100:]):
                opened.write(part)
                opened.flush()
                os.sched_yield()

    monkeypatch.setattr(doctor, "write_whole", write_in_parts)
    monkeypatch.setattr(doctor, "RENAMES", 1000)
    assert doctor._renames_seen_in_part(tmp_path / "file") > 0


def test_little_room_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "GIBIBYTES_FREE", 10**6)
    found = by_name(doctor._room())
    assert {finding.state for finding in found.values()} == {"warning"}
    assert "free some space" in found["disk here"].fix


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("Slurmctld(primary) at login is UP", "good"),
        ("Slurmctld(primary) at login is DOWN", "warning"),
        ("", "warning"),
    ],
)
def test_a_scheduler_that_does_not_answer_is_a_warning(said: str, state: str, scheduler: Path) -> None:
    scheduler.write_text(said)
    assert by_name(doctor._slurm())["SLURM"].state == state


def test_without_a_cluster_nothing_is_said_of_its_nodes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "not installed" in by_name(doctor._slurm())["SLURM"].found
    assert not list(doctor._allocation())
