"""Requests to stop outside of the training loop: while the data are prepared, and when a process has only to end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.supervise.stop_requests import SIGNALS
from tests.cli import adaptrun, start, wait_until
from tests.small_run import write_job

ENDING = """
import atexit, sys, time
from launcher.supervise.stop_requests import StopRequests

with StopRequests().listening(last=sys.argv[1] == "last"):
    pass
atexit.register(time.sleep, 1)
print("done", flush=True)
"""


def exit_code_after(number: signal.Signals, how: str) -> int:
    command = [sys.executable, "-c", ENDING, how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        process.send_signal(number)
        return process.wait(30)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_request_comes_too_late_where_the_process_only_ends(number: signal.Signals) -> None:
    assert exit_code_after(number, "last") == 0


def test_a_process_that_does_more_is_stopped_as_before() -> None:
    assert exit_code_after(signal.SIGTERM, "more") == -signal.SIGTERM


@pytest.mark.parametrize(
    ("processes", "how"), [pytest.param(1, "the stop file", marks=pytest.mark.slow), (2, "SIGTERM")]
)
def test_a_run_that_is_stopped_while_it_prepares_is_taken_up_again(
    processes: int, how: str, tmp_path: Path, tiny_model: Path
) -> None:
    write_job(tmp_path, tiny_model)
    command = ["train", "job.yaml", "--set", f"launch.processes={processes}", "--set", "train.max_steps=2"]
    launcher = start(*command, cwd=tmp_path)
    wait_until(
        lambda: any('"preparing"' in file.read_text() for file in tmp_path.glob("runs/*/metrics.jsonl")), launcher
    )
    (run,) = (tmp_path / "runs").iterdir()
    if how == "SIGTERM":
        launcher.send_signal(signal.SIGTERM)
    else:
        (run / "stop").write_text("cancel")
    assert launcher.wait(90) == 75, (tmp_path / "stderr").read_text()
    status = json.loads(adaptrun("status", run, "--json", cwd=tmp_path).stdout)
    assert (status["state"], status["step"], status["failure"]) == ("stopped", 0, None)
    said = adaptrun(*command, cwd=tmp_path).stdout
    assert "resuming from the beginning: it was stopped before its first checkpoint" in said
    status = json.loads(adaptrun("status", run, "--json", cwd=tmp_path).stdout)
    assert (status["state"], status["step"], status["starts"]) == ("done", 2, 2)
