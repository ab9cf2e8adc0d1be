"""Who hangs, and who only waits for it: told from beats and stacks of real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from launcher.run.failures import Failure
from launcher.run.folder import RunFolder
from launcher.run.heartbeats import HEARTBEAT, Beat, Heartbeats
from launcher.supervise.stacks import Frame, Stack, dumped_stack
from launcher.supervise.watchdog import Watchdog, culprit

LATER = 1e6
RANK = """\
import os, sys, time
from launcher.run.folder import RunFolder
from launcher.worker.rank.process import RankEnv, RankProcess

folder, rank, collective = RunFolder(__import__("pathlib").Path(sys.argv[1])), int(sys.argv[2]), sys.argv[3]
process = RankProcess(RankEnv(rank, rank, 2), folder)
process.keep_output()
process.heartbeat.enter("training")
for _ in range(4):
    process.heartbeat.beat(7)

def hang():
    time.sleep(600)

if collective:
    with process.heartbeat.waiting(collective):
        hang()
hang()
"""
WAITS, WORKS = Stack((Frame("torch/distributed/x.py", 1, "f"),)), Stack((Frame("own.py", 1, "f"),))


def beat(step: int = 5, collective: str = "", at: float = 0.0) -> Beat:
    return Beat(os.getpid(), 10, step, at, 1.0, "training", collective)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "run")
    made.logs.mkdir(parents=True)
    return made


@pytest.fixture
def heartbeats() -> Iterator[Heartbeats]:
    made = Heartbeats(0, 2)
    yield made
    made.close()


@pytest.fixture
def ranks(folder: RunFolder, heartbeats: Heartbeats) -> Iterator[Callable[..., list[subprocess.Popen[bytes]]]]:
    """Starts a rank for each collective named; the empty one hangs outside of any."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*collectives: str) -> list[subprocess.Popen[bytes]]:
        for rank, collective in enumerate(collectives):
            command = [sys.executable, "-c", RANK, str(folder.path), str(rank), collective]
            environment = os.environ | {HEARTBEAT: heartbeats.address_of(rank)}
            started.append(subprocess.Popen(command, env=environment, pass_fds=[heartbeats.descriptor]))
        begun = time.monotonic()
        while [b.collective for _, b in sorted(heartbeats.read().items()) if b.beats >= 4] != list(collectives):
            assert time.monotonic() - begun < 60
            time.sleep(0.05)
        return started

    yield start
    for process in started:
        process.kill()
        process.wait()


def told(folder: RunFolder) -> Failure:
    (file,) = folder.logs.glob("*.failure.json")
    return Failure(**json.loads(file.read_text()))


def test_a_rank_outside_of_any_collective_is_the_one_and_all_are_ended(
    folder: RunFolder, heartbeats: Heartbeats, ranks: Callable[..., list[subprocess.Popen[bytes]]]
) -> None:
    processes = ranks("sum over the ranks", "")
    Watchdog(folder, 1, 5.0, 5.0, clock=lambda: time.monotonic() + LATER).look(heartbeats.read())
    failure = told(folder)
    assert (failure.rank, failure.step, failure.follows) == (1, 7, False)
    assert "in hang" in failure.traceback
    assert "in the sum over the ranks" not in failure.message
    assert [process.wait(10) for process in processes] == [-signal.SIGKILL] * 2


def test_a_stopped_process_is_the_one_even_in_a_collective(
    folder: RunFolder, heartbeats: Heartbeats, ranks: Callable[..., list[subprocess.Popen[bytes]]]
) -> None:
    processes = ranks("wait for all ranks", "wait for all ranks")
    psutil.Process(processes[0].pid).suspend()
    Watchdog(folder, 1, 5.0, 5.0, clock=lambda: time.monotonic() + LATER).look(heartbeats.read())
    assert told(folder).rank == 0
    assert "the process is stopped (SIGSTOP)" in told(folder).message
    assert not told(folder).follows


def test_ranks_that_only_wait_are_given_time_for_the_culprit_to_show(
    folder: RunFolder, heartbeats: Heartbeats, ranks: Callable[..., list[subprocess.Popen[bytes]]]
) -> None:
    processes = ranks("sum over the ranks", "sum over the ranks")
    later = max(b.at for b in heartbeats.read().values()) + 5.0
    watchdog = Watchdog(folder, 1, 4.0, 4.0, clock=lambda: later)
    watchdog.look(heartbeats.read())
    assert not list(folder.logs.glob("*.failure.json"))
    assert all(process.poll() is None for process in processes)
    watchdog.clock = lambda: later + 20.0
    watchdog.look(heartbeats.read())
    assert told(folder).follows
    assert told(folder).is_consequence


@pytest.mark.parametrize(
    ("beats", "stacks", "expected"),
    [
        ({0: beat(), 1: beat(collective="sum")}, {}, 0),
        ({0: beat(), 1: beat()}, {0: WAITS, 1: WORKS}, 1),
        ({0: beat(), 1: beat()}, {0: WORKS, 1: WAITS}, 0),
        ({0: beat(step=6), 1: beat(step=5)}, {}, 1),
        ({0: beat(at=2.0), 1: beat(at=1.0)}, {0: WORKS, 1: WORKS}, 1),
    ],
)
def test_the_culprit_waits_for_nobody(beats: dict[int, Beat], stacks: dict[int, Stack], expected: int) -> None:
    assert culprit(beats, stacks) == expected


@pytest.mark.parametrize(
    ("longest", "beats", "phase", "allowed"),
    [
        (0.1, 10, "training", 30.0),
        (9.0, 10, "training", 90.0),
        (0.1, 2, "training", 600.0),
        (0.1, 9, "preparing", None),
    ],
)
def test_the_time_allowed_follows_what_was_measured(
    longest: float, beats: int, phase: str, allowed: float | None, folder: RunFolder
) -> None:
    given = Watchdog(folder, 1, patience=30.0, timeout=600.0).allowed(
        replace(beat(), longest=longest, beats=beats, phase=phase)
    )
    assert given == (float("inf") if allowed is None else allowed)


def test_only_the_main_threads_last_dump_counts(tmp_path: Path) -> None:
    dump = (
        "Thread 0x00007f01 (most recent call first):\n"
        '  File "/x/torch/distributed/c10d.py", line 3 in wait\n'
        '  File "/usr/lib/threading.py", line 995 in _bootstrap\n\n'
        "Current thread 0x00007f02 (most recent call first):\n"
        '  File "/work/own.py", line {line} in before\n'
        '  File "/x/launcher/worker/__main__.py", line 44 in <module>\n'
    )
    log = tmp_path / "rank-0.log"
    log.write_text("".join(dump.replace("{line}", str(line)) for line in (1, 2)))
    stack = dumped_stack(log, 0)
    assert stack is not None
    assert not stack.waits_for_others
    assert str(stack).startswith('  File "/work/own.py", line 2 in before')
    assert dumped_stack(log, log.stat().st_size) is None
    assert dumped_stack(tmp_path / "absent.log", 0) is None
