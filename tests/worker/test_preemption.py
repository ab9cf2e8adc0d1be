"""Requests to stop: a vote inside the loop, at once outside it and on the second."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.errors import Stopped
from launcher.worker.rank.preemption import StopRequest

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


@pytest.fixture
def stop() -> Iterator[StopRequest]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    request = StopRequest()
    request.listen()
    yield request
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_outside_the_loop_a_request_stops_at_once(number: signal.Signals, stop: StopRequest) -> None:
    with pytest.raises(Stopped, match="stopped at once"):
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_inside_the_first_only_asks_and_the_second_stops(number: signal.Signals, stop: StopRequest) -> None:
    with pytest.raises(Stopped), stop.deferred():
        os.kill(os.getpid(), number)
        assert stop.asked
        os.kill(os.getpid(), number)
        pytest.fail("the second request went by")


def test_after_the_loop_a_request_stops_at_once_again(stop: StopRequest) -> None:
    with stop.deferred():
        pass
    with pytest.raises(Stopped):
        os.kill(os.getpid(), signal.SIGTERM)


def test_an_import_is_not_cut_short(stop: StopRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(0.3)\nis_whole = True\n"
    (tmp_path / "slow_to_come.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Stopped):
        importlib.import_module("slow_to_come")
        time.sleep(30)
    assert sys.modules.pop("slow_to_come").is_whole
    assert stop.asked


def test_a_request_during_an_import_is_one_and_not_two(
    stop: StopRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "short_to_come.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("short_to_come")
    with stop.deferred():
        time.sleep(0.3)
    del sys.modules["short_to_come"]
    assert stop.asked


@pytest.mark.parametrize(
    ("had", "saving", "passed", "expected"),
    [
        (10_000, 0.0, 9_855, False),
        (10_000, 0.0, 9_865, True),
        (100, 0.0, 60, False),
        (100, 0.0, 75, True),
        (100, 30.0, 15, False),
        (100, 30.0, 25, True),
    ],
)
def test_the_end_is_near_when_no_more_than_two_saves_fit(
    had: float, saving: float, passed: float, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1e9
    monkeypatch.setattr("launcher.worker.rank.preemption.time.time", lambda: now)
    request = StopRequest()
    request.watch(Path("absent"), now + had)
    request.saving_took(saving)
    now += passed
    assert request.asked is expected
