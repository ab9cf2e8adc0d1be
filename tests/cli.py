"""Running `adaptrun` as its users do: as a command, in a folder, with real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from launcher.run.forking import FORK_SERVER

ADAPTRUN = str(Path(sys.executable).with_name("adaptrun"))
TORCHRUN = str(Path(sys.executable).with_name("torchrun"))
INHERITED = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
"""What commands get. Libraries that the tests import set more in this process, which no command would have."""
ENVIRONMENT = INHERITED | {"COLUMNS": "120"}
PATIENCE = 240.0
"""Seconds after which something that was waited for counts as lost."""


def adaptrun(*arguments: object, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and check its exit code."""
    return run(ADAPTRUN, *arguments, cwd=cwd, code=code)


def run(*command: object, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run any command to its end and check its exit code."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, cwd=cwd, env=with_fork_server(), capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired as lost:
        logs = "\n".join(f"{log}:\n{log.read_text()[-3000:]}" for log in cwd.glob("runs/*/logs/*.log"))
        pytest.fail(f"no end after {PATIENCE} s of {words}\n{lost.stdout!r}\n{lost.stderr!r}\n{logs}")
    assert done.returncode == code, f"exit code {done.returncode} of {words}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr or code == 1, done.stderr
    return done


def with_fork_server() -> dict[str, str]:
    """The environment in which ranks are forked from the server of all tests."""
    return ENVIRONMENT | {name: os.environ[name] for name in (FORK_SERVER,) if name in os.environ}


def start(*arguments: object, cwd: Path, own_server: bool = True) -> subprocess.Popen[str]:
    """Start a command and return at once; its output goes to files in `cwd`.

    own_server: False forks its ranks from the server of all tests, which saves the seconds of importing
    """
    environment = ENVIRONMENT if own_server else with_fork_server()
    with (cwd / "stdout").open("w") as out, (cwd / "stderr").open("w") as err:
        words = [ADAPTRUN, *(str(argument) for argument in arguments)]
        return subprocess.Popen(words, cwd=cwd, env=environment, stdout=out, stderr=err, text=True)


def ranks_of(launcher: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes of a started command that train, in the order of their ranks."""
    found, folder = [], psutil.Process(launcher.pid).cwd()
    for child in psutil.Process().children(recursive=True):  # of the server of all tests, too
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            name, _, rank = child.name().partition("-")
            if name == "rank" and child.cwd() == folder:
                found.append((int(rank), child))
    return [child for _, child in sorted(found, key=lambda pair: pair[0])]


def wait_until(happened: Callable[[], bool], launcher: subprocess.Popen[str]) -> None:
    """Return as soon as something has happened; a launcher that ends before is a failure."""
    begun = time.monotonic()
    while not happened():
        assert launcher.poll() is None, f"ended with {launcher.returncode} before what was waited for"
        assert time.monotonic() - begun < PATIENCE, "waited in vain"
        time.sleep(0.005)


def is_gone(process: psutil.Process) -> bool:
    """Whether a process has ended (a zombie that nobody waited for has)."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def assert_gone(processes: list[psutil.Process]) -> None:
    """Fail unless all of them end within seconds."""
    begun = time.monotonic()
    while not all(is_gone(process) for process in processes):
        assert time.monotonic() - begun < 30, f"still there: {[p for p in processes if not is_gone(p)]}"
        time.sleep(0.05)
