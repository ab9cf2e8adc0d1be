"""Starting the trackers' processes alongside a run, on the side of whoever shows it, and ending them with it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from launcher.errors import Stopped
from launcher.job.schema import Job
from launcher.run.events import EventLog
from launcher.run.folder import RunFolder
from launcher.tracking.base import Status

PATIENCE = 60.0
"""Seconds in which the trackers may send what is left after a start has ended."""

Process = subprocess.Popen[str]


@contextmanager
def tracked(folder: RunFolder, job: Job) -> Iterator[None]:
    """Inside, each tracker that the job names follows the run's events, in a process of its own.

    A tracker that fails or hangs costs the run nothing but a note.
    """
    processes: dict[str, Process] = {tracker.name: _started(folder, tracker.name) for tracker in job.track}
    status: Status = "failed"  # unless the events say something better
    try:
        yield
    except Stopped:
        status = "stopped"
        raise
    finally:
        _end(folder, processes, status)


def say_lost(folder: RunFolder, name: str, why: str) -> None:
    """Report that the run continues without this tracker."""
    log = EventLog(folder.events_file)
    log.note(f"{name} receives no more metrics, and the run continues: {why}; see {folder.tracker_log(name)}")
    log.close()


def _started(folder: RunFolder, name: str) -> Process:
    """In a session of its own, so that a terminal's Ctrl-C does not reach it."""
    folder.logs.mkdir(parents=True, exist_ok=True)
    with folder.tracker_log(name).open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "launcher.tracking", str(folder.path), name],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            text=True,
            start_new_session=True,
        )


def _end(folder: RunFolder, processes: Mapping[str, Process], status: Status) -> None:
    """Say that the start has ended, and wait; what hangs is ended, and noted."""
    for process in processes.values():
        assert process.stdin is not None
        with suppress(OSError):  # it has failed before, and has said so
            process.stdin.write(f"{status}\n")
            process.stdin.close()
    until = time.monotonic() + PATIENCE
    for name, process in processes.items():
        try:
            code = process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            say_lost(folder, name, f"it did not finish within {PATIENCE:.0f} s")
        else:
            if code:
                say_lost(folder, name, f"its process ended with {code}")
