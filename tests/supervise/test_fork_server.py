"""Ranks that are forked from a process which has imported everything behave as interpreters of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from launcher.run.forking import FORK_SERVER
from launcher.supervise.fork_server import ForkedRank, fork_rank, fork_server
from tests.cli import adaptrun, ranks_of, start, wait_until, with_fork_server
from tests.small_run import write_job

WORKER = "launcher.worker.fork_server"
SMALL = ("--set", "train.max_steps=3", "--set", "launch.processes=1")


def test_the_server_of_all_tests_forks_the_ranks_of_their_commands() -> None:
    rank = fork_rank(["none.yaml"], with_fork_server(), [])
    assert rank is not None, "the tests are slow where each rank imports everything, and nothing else shows it"
    rank.wait()


@pytest.mark.slow
def test_without_a_server_each_rank_is_an_interpreter_with_the_same_numbers(tmp_path: Path, tiny_model: Path) -> None:
    for name in ("forked", "fresh"):
        folder = tmp_path / name
        folder.mkdir()
        write_job(folder, tiny_model)
    adaptrun("train", "job.yaml", *SMALL, cwd=tmp_path / "forked")
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv(FORK_SERVER, "")
        adaptrun("train", "job.yaml", *SMALL, cwd=tmp_path / "fresh")
    one, other = (
        (tmp_path / name / "runs" / "small" / "model" / "model.safetensors").read_bytes()
        for name in ("forked", "fresh")
    )
    assert one == other


@pytest.fixture(scope="module")
def own_server() -> Iterator[psutil.Process]:
    """A server of this module alone, which may be killed."""
    with pytest.MonkeyPatch.context() as changed:
        changed.delenv(FORK_SERVER)
        known = {child.pid for child in psutil.Process().children()}
        with fork_server(threads=1):
            (server,) = (child for child in psutil.Process().children() if child.pid not in known)
            yield server


def forked(*arguments: str, **environment: str) -> ForkedRank | None:
    return fork_rank(arguments, os.environ | {"OMP_NUM_THREADS": "1"} | environment, [])


def test_it_says_what_an_interpreter_says_and_ends_with_its_code(
    own_server: psutil.Process, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text("nmae: x\n")
    rank = forked("bad.yaml")
    assert rank is not None
    assert rank.wait() == 2
    said = capfd.readouterr().err
    fresh = subprocess.run(
        [sys.executable, "-P", "-m", "launcher.worker", "bad.yaml"], capture_output=True, text=True, cwd=tmp_path
    )
    assert fresh.returncode == 2
    assert "bad.yaml:1:1: nmae" in said
    assert said == fresh.stderr


def test_an_environment_that_imports_may_have_read_gets_an_interpreter(own_server: psutil.Process) -> None:
    assert forked("none.yaml", HF_HOME="/elsewhere") is None
    assert forked("none.yaml", RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", COLUMNS="80") is not None


def test_a_rank_is_signalled_and_waited_for_as_a_child_is(
    own_server: psutil.Process, tmp_path: Path, tiny_model: Path
) -> None:
    job = write_job(tmp_path, tiny_model)
    job.write_text(job.read_text().replace("epochs: 3", "epochs: 300"))
    rank = forked(str(job))
    assert rank is not None
    assert rank.pid in ForkedRank.alive
    assert rank.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        rank.wait(0.1)
    process = psutil.Process(rank.pid)
    assert process.ppid() == own_server.pid
    assert os.getsid(rank.pid) == rank.pid, "a terminal's Ctrl-C does not reach it"
    rank.kill()
    assert rank.wait() == -signal.SIGKILL
    assert rank.pid not in ForkedRank.alive


def test_requests_to_stop_leave_the_server_and_its_end_ends_its_ranks(
    own_server: psutil.Process, tmp_path: Path, tiny_model: Path
) -> None:
    job = write_job(tmp_path, tiny_model)
    job.write_text(job.read_text().replace("epochs: 3", "epochs: 300"))
    rank = forked(str(job))
    assert rank is not None
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):  # as a cluster sends them to all processes
        own_server.send_signal(number)
    assert rank.poll() is None
    assert own_server.is_running()
    own_server.kill()
    assert rank.wait() == -signal.SIGKILL
    own_server.wait()
    assert forked(str(job)) is None, "the next rank is an interpreter of its own"


def test_a_run_forks_its_ranks_and_leaves_no_process(tmp_path: Path, tiny_model: Path) -> None:
    job = write_job(tmp_path, tiny_model)
    job.write_text(job.read_text().replace("epochs: 3", "epochs: 300"))
    launcher = start("train", job.name, cwd=tmp_path)
    wait_until(lambda: len(ranks_of(launcher)) == 2, launcher)
    (parent,) = {rank.ppid() for rank in ranks_of(launcher)}
    assert WORKER in psutil.Process(parent).cmdline()
    processes = psutil.Process(launcher.pid).children(recursive=True)
    launcher.terminate()
    assert launcher.wait() == 75, "stopped, and resumable"
    psutil.wait_procs(processes, timeout=10)
    assert not [process for process in processes if process.is_running()]
