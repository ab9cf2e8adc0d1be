"""Which rank a process is, by whatever started it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.errors import ExitCode, RequestError, Superseded
from launcher.run.attempts import begin_attempt
from launcher.run.folder import RunFolder
from launcher.worker.rank.process import RankEnv, RankProcess
from launcher.worker.rank.run_context import start_of
from tests.small_run import write_job

TORCHRUN = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}
HERE = {"LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "n1"}
SRUN = {"SLURM_PROCID": "2", "SLURM_LOCALID": "0", "SLURM_NTASKS": "3", "MASTER_ADDR": "node-1"}


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, RankEnv(0, 0, 1)),
        (TORCHRUN, RankEnv(3, 1, 4)),
        (TORCHRUN | HERE, RankEnv(3, 1, 4)),
        (TORCHRUN | HERE | {"LOCAL_WORLD_SIZE": "2"}, RankEnv(3, 1, 4, leader="n1")),
        (SRUN, RankEnv(2, 0, 3, leader="node-1")),
        (SRUN | {"SLURM_STEP_NUM_NODES": "1", "SLURMD_NODENAME": "n7"}, RankEnv(2, 0, 3, "n7")),
        (SRUN | TORCHRUN, RankEnv(3, 1, 4, leader="node-1")),
        (TORCHRUN | {"MASTER_ADDR": "127.0.0.1"}, RankEnv(3, 1, 4)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, RankEnv(0, 0, 1)),
        ({"SLURM_NTASKS": "4"}, RankEnv(0, 0, 1)),
    ],
    ids=[
        "alone",
        "torchrun",
        "on one machine",
        "on several",
        "srun",
        "srun on one machine",
        "torchrun within srun",
        "deepspeed on one machine",
        "one task",
        "a batch script",
    ],
)
def test_the_place_is_read_from_what_is_there(environment: dict[str, str], place: RankEnv) -> None:
    assert RankEnv.from_environment(environment) == place


def test_tasks_without_a_meeting_place_are_told_how_to_name_one() -> None:
    alone = {name: value for name, value in SRUN.items() if name != "MASTER_ADDR"}
    with pytest.raises(RequestError, match="set MASTER_ADDR to the first node's address and MASTER_PORT"):
        RankEnv.from_environment(alone)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (TORCHRUN | {"RANK": "first"}, "RANK is 'first' in the environment, and must be a number"),
        (TORCHRUN | {"RANK": "-1"}, "RANK is '-1' in the environment"),
        (TORCHRUN | {"LOCAL_RANK": "1.5"}, "LOCAL_RANK is '1.5' in the environment"),
        (TORCHRUN | {"WORLD_SIZE": ""}, "WORLD_SIZE is '' in the environment"),
        ({"RANK": "3"}, "RANK is 3, and WORLD_SIZE 0: ranks are counted from 0 to one less"),
        (TORCHRUN | {"WORLD_SIZE": "3"}, "RANK is 3, and WORLD_SIZE 3"),
        (SRUN | {"SLURM_NTASKS": "many"}, "SLURM_NTASKS is 'many' in the environment"),
        (SRUN | {"SLURM_PROCID": "9"}, "SLURM_PROCID is 9, and SLURM_NTASKS 3"),
    ],
)
def test_variables_that_name_no_place_are_told(environment: dict[str, str], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        RankEnv.from_environment(environment)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"SLURM_PROCID": "2", "SLURM_NTASKS": "3"}, "srun started several tasks without a rendezvous address"),
        ({"RANK": "zero", "WORLD_SIZE": "2"}, "RANK is 'zero' in the environment"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "2 processes were started without a rendezvous address; set MASTER_ADDR"),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "192.0.2.99", "MASTER_PORT": "1"},
            "cannot listen at 192.0.2.99:1 .* use an address of this machine and a free port",
        ),
    ],
    ids=["srun without an address", "no number", "no address", "an address of another machine"],
)
def test_a_rank_that_is_started_by_hand_says_in_a_sentence_what_it_was_not_told(
    environment: dict[str, str], message: str, tmp_path: Path, tiny_model: Path
) -> None:
    job = write_job(tmp_path, tiny_model)
    command = [sys.executable, "-P", "-m", "launcher.worker", str(job)]
    ended = subprocess.run(command, env=environment | {"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert ended.returncode == ExitCode.WRONG_REQUEST, ended.stderr
    assert re.fullmatch(f"(adaptrun: )?{message}.*\n", ended.stderr), ended.stderr


def test_a_rank_whose_start_is_over_before_it_has_met_the_others_belongs_to_no_later_one(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    first = begin_attempt(folder, "first", None)
    process = RankProcess(RankEnv(), folder)
    assert start_of(process, folder) == first
    begin_attempt(folder, "requeued", None)
    with pytest.raises(Superseded, match="attempt 2 of"):
        start_of(process, folder)


CUT_SHORT = """
import os, pathlib, signal, sys
from launcher.worker.rank.process import RankEnv, RankProcess

def work():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except Exception:
        pass  # as some libraries do while they import others
    raise AttributeError("partially initialized module")

def fail():
    try:
        raise AttributeError("a mistake")
    finally:
        os.kill(os.getpid(), signal.SIGTERM)

def look():
    pathlib._ignore_error = lambda error: os.kill(os.getpid(), signal.SIGTERM)  # while is_dir catches an error
    pathlib.Path("/no/such/place").is_dir()

RankProcess(RankEnv()).run({"cut short": work, "failing before": fail, "within a library": look}[sys.argv[1]])
"""


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="pathlib catches its errors elsewhere")
def test_a_request_while_a_library_catches_an_error_is_no_failure() -> None:
    command = [sys.executable, "-c", CUT_SHORT, "within a library"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == ExitCode.STOPPED, ended.stderr


@pytest.mark.parametrize(("how", "code"), [("cut short", ExitCode.STOPPED), ("failing before", ExitCode.FAILED)])
def test_what_a_request_cut_short_is_no_failure(how: str, code: ExitCode) -> None:
    ended = subprocess.run([sys.executable, "-c", CUT_SHORT, how], capture_output=True, text=True, timeout=60)
    assert ended.returncode == code, ended.stderr
    assert "AttributeError" in ended.stderr
