"""Starts are counted, those that bring nothing are told, and earlier ones may not write."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.errors import Superseded
from launcher.run.attempts import Attempt, Fence, adopt, attempts_without_progress, begin_attempt, begin_next_attempt
from launcher.run.checkpoints import MARKER, checkpoint_name
from launcher.run.folder import RunFolder
from launcher.run.unhealthy import report_unhealthy, take_unhealthy


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path)
    made.logs.mkdir()
    made.checkpoints.mkdir()
    return made


def save(folder: RunFolder, step: int) -> Path:
    checkpoint = folder.checkpoints / checkpoint_name(step)
    checkpoint.mkdir()
    (checkpoint / MARKER).touch()
    return checkpoint


def test_starts_in_a_row_that_save_nothing_are_counted(folder: RunFolder) -> None:
    assert begin_attempt(folder, "first", None) == Attempt.read(folder)
    assert [begin_next_attempt(folder, "restart").without_progress for _ in range(3)] == [1, 2, 3]
    save(folder, 10)
    start = begin_next_attempt(folder, "restart")
    assert (start.count, start.from_step, start.without_progress) == (5, 10, 0)
    assert begin_next_attempt(folder, "requeued").without_progress == 1
    assert begin_next_attempt(folder, "resumed").without_progress == 0, "a person may try as often as they like"


def test_a_start_that_saves_is_not_in_vain_whatever_came_before(folder: RunFolder) -> None:
    begin_attempt(folder, "first", None)
    latest = begin_next_attempt(folder, "restart")
    assert attempts_without_progress(folder, latest) == 2
    save(folder, 10)
    assert attempts_without_progress(folder, latest) == 0


def test_a_request_to_stop_outlives_starts_that_nobody_asked_for(folder: RunFolder) -> None:
    begin_attempt(folder, "first", None)
    folder.stop_file.touch()
    begin_next_attempt(folder, "restart")
    begin_next_attempt(folder, "requeued")
    assert folder.stop_file.exists()
    begin_next_attempt(folder, "resumed")
    assert not folder.stop_file.exists()


def test_a_start_is_taken_up_without_being_counted_again(folder: RunFolder) -> None:
    first = begin_attempt(folder, "first", None)
    taken = adopt(folder, first, token="7-0-0", endpoint="n1:9", ends=5.0)
    assert Attempt.read(folder) == taken
    assert (taken.count, taken.token, taken.endpoint, taken.ends) == (1, "7-0-0", "n1:9", 5.0)


def test_an_earlier_start_may_not_write(folder: RunFolder) -> None:
    now = 0.0
    start = begin_attempt(folder, "first", None)
    fence = Fence(folder, start.count, clock=lambda: now)
    fence.check()
    begin_next_attempt(folder, "requeued")
    fence.check_now_and_then()
    now = 60.0
    with pytest.raises(Superseded, match=r"attempt 2 of .* has begun, so attempt 1"):
        fence.check_now_and_then()
    with pytest.raises(Superseded):
        fence.check()


def test_unfit_machines_are_told_once(folder: RunFolder) -> None:
    report_unhealthy(folder, "n2", ["/tmp has 1 MiB free", "GPU 0 has 3 uncorrected ECC errors"])
    assert take_unhealthy(folder) == {"n2": "/tmp has 1 MiB free; GPU 0 has 3 uncorrected ECC errors"}
    assert take_unhealthy(folder) == {}
