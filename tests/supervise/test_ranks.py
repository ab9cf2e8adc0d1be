"""The ranks of a machine: started, watched, ended together, and gone when their launcher is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from launcher.run.failures import recorded_ends
from launcher.run.folder import RunFolder
from launcher.run.rendezvous import LAUNCHER, TOKEN, new_token, read_token
from launcher.supervise.processes import run_agent
from tests.cli import assert_gone

NOTHING = """
import os, sys, time
rank, size = os.environ["RANK"], os.environ["WORLD_SIZE"]
"""


def run(code: str, folder: RunFolder, processes: int) -> bool:
    return run_agent([sys.executable, "-c", NOTHING + code], processes, 1, folder, [])


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path)
    made.logs.mkdir()
    return made


def test_each_rank_is_told_where_it_stands(folder: RunFolder) -> None:
    names = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS", "MASTER_ADDR", LAUNCHER]
    assert run(
        f"import json; json.dump([os.environ[n] for n in {names}], open('{folder.path}/' + rank, 'w'))", folder, 2
    )
    for rank in range(2):
        told = json.loads((folder.path / str(rank)).read_text())
        assert told == [str(rank), str(rank), "2", "2", "1", "127.0.0.1", str(os.getpid())]


def test_what_an_outer_launcher_has_set_means_nothing_to_a_rank(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.setenv(name, "7")
    assert run(
        "from launcher.worker.rank.process import RankEnv; assert RankEnv.from_environment() == RankEnv()", folder, 1
    )


def test_a_rank_that_fails_ends_the_others_and_only_its_own_code_counts(folder: RunFolder) -> None:
    assert not run("sys.exit(3) if rank == '1' else time.sleep(600)", folder, 3)
    ends = recorded_ends(folder)
    assert [(end.rank, end.code) for end in ends] == [(0, None), (1, 3), (2, None)]


def test_a_killed_rank_is_told_from_those_that_were_ended_for_it(folder: RunFolder) -> None:
    assert not run("os.kill(os.getpid(), 9) if rank == '1' else time.sleep(600)", folder, 2)
    assert [(end.rank, end.code) for end in recorded_ends(folder)] == [(0, None), (1, -9)]


def test_a_token_of_several_machines_is_for_its_user_alone(folder: RunFolder) -> None:
    first = new_token(folder)
    assert read_token(folder) == first
    second = new_token(folder)
    assert (read_token(folder), len({first, second, TOKEN})) == (second, 3)
    assert folder.token_file.stat().st_mode & 0o777 == 0o600


LAUNCH = """
import sys
from pathlib import Path
from launcher.run.folder import RunFolder
from launcher.supervise.processes import run_agent

print("launching", flush=True)
run_agent([sys.executable, "-P", "-c", sys.argv[3]], int(sys.argv[2]), 1, RunFolder(Path(sys.argv[1])), [])
"""
RANK = """
import time
from launcher.worker.rank.process import RankEnv, RankProcess
RankProcess(RankEnv()).run(lambda: time.sleep(600))
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_a_launcher_killed_right_after_it_has_started_ranks_leaves_none(processes: int, folder: RunFolder) -> None:
    """At any moment: before a rank can ask the kernel to die with its launcher, and after."""
    for wait in (0.0, 0.02, 0.05, 0.1, 0.2, 0.3):
        launcher = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(folder.path), str(processes), RANK], stdout=subprocess.PIPE, text=True
        )
        assert launcher.stdout is not None
        assert launcher.stdout.readline() == "launching\n"
        ranks: list[psutil.Process] = []
        while len(ranks) < processes:
            ranks = psutil.Process(launcher.pid).children()
        time.sleep(wait)
        launcher.send_signal(signal.SIGKILL)
        launcher.wait()
        assert_gone(ranks)


def test_a_rank_behind_a_program_that_starts_it_lives(folder: RunFolder, tmp_path: Path) -> None:
    """As where `python` is a script that does not give its place to the real one."""
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\n"{sys.executable}" "$@"\nexit $?\n')
    script.chmod(0o755)
    code = "from launcher.worker.rank.process import RankEnv, RankProcess; RankProcess(RankEnv()).run(lambda: None)"
    assert run_agent([str(script), "-P", "-c", code], 1, 1, folder, [])


def test_a_rank_that_was_started_by_hand_is_not_ended(tmp_path: Path) -> None:
    code = "from launcher.worker.rank.process import RankEnv, RankProcess"
    code += "; RankProcess(RankEnv()).run(lambda: print('alive'))"
    through_another = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}], check=True)"
    said = subprocess.run([sys.executable, "-c", through_another], capture_output=True, text=True, check=True)
    assert said.stdout == "alive\n"
