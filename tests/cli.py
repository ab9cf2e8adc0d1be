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
ENVIRONMENT = os.environ | {"COLUMNS": "120", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
PATIENCE = 240.0
"""Seconds after which something that was waited for counts as lost."""


def adaptrun(*arguments: object, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and check its exit code."""
    return run(ADAPTRUN, *arguments, cwd=cwd, code=code)


def run(*command: object, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run any command to its end and check its exit code."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, cwd=cwd, env=_shared(), capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired as lost:
        logs = "\n".join(f"{log}:\n{log.read_text()[-3000:]}" for log in cwd.glob("runs/*/logs/*.log"))
        pytest.fail(f"no end after {PATIENCE} s of {words}\n{lost.stdout!r}\n{lost.stderr!r}\n{logs}")
    assert done.returncode == code, f"exit code {done.returncode} of {words}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr or code == 1, done.stderr
    return done


def _shared() -> dict[str, str]:
    """The environment in which ranks are forked from the server of all tests."""
    return ENVIRONMENT | {name: os.environ[name] for name in (FORK_SERVER,) if name in os.environ}


def start(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    """Start a command and go on; its output goes to files in `cwd`."""
    with (cwd / "stdout").open("w") as out, (cwd / "stderr").open("w") as err:
        words = [ADAPTRUN, *(str(argument) for argument in arguments)]
        return subprocess.Popen(words, cwd=cwd, env=ENVIRONMENT, stdout=out, stderr=err, text=True)


def ranks_of(launcher: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes of a started command that train, in the order of their ranks."""
    found = []
    for child in psutil.Process(launcher.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            name, _, rank = child.name().partition("-")
            if name == "rank":
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
