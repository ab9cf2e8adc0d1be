"""A request to stop that comes when a process has only to end changes nothing."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from launcher.start.stopping import SIGNALS

ENDING = """
import atexit, sys, time
from launcher.start.stopping import StopRequests

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
