"""What comes next when the ranks of a batch job have ended: done, failed, once more here, or back into the queue."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.cluster.requeue import AGAIN, CANCEL, CANCELLED, decide
from launcher.cluster.srun_watchdog import lost_file
from launcher.errors import ExitCode, RequestError
from launcher.job.reading.job_file import load_job
from launcher.run.attempts import Attempt, begin_attempt, begin_next_attempt
from launcher.run.checkpoints import MARKER, checkpoint_name
from launcher.run.events import EventTail, Note
from launcher.run.failures import Ended, Failure, leave_ends, report_failure
from launcher.run.folder import RunFolder
from launcher.run.results import Result
from launcher.run.unhealthy import report_unhealthy
from launcher.supervise.failure import RankFailed
from tests.small_run import write_job


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path) -> RunFolder:
    """A run whose first start has begun, and which may be started again once in a row."""
    made = RunFolder.create(load_job(write_job(tmp_path, tiny_model), ["launch.max_restarts=1"]))
    begin_attempt(made, "first", None)
    return made


def save(folder: RunFolder, step: int) -> None:
    (folder.checkpoints / checkpoint_name(step)).mkdir()
    (folder.checkpoints / checkpoint_name(step) / MARKER).touch()


def kill_rank_1(folder: RunFolder) -> None:
    start = Attempt.read(folder)
    assert start is not None
    leave_ends(folder, [Ended(1, "n2", -9, "training, step 3", 3)], start.count)


def word(folder: RunFolder, rank: int | None, error: str, code: int) -> None:
    start = Attempt.read(folder)
    assert start is not None
    report_failure(folder, Failure(rank, "n1", 1.0, error, "so it is", "Traceback …", code), start.count)


def test_a_stop_that_left_no_file_is_queued_again_as_any_other(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    save(folder, 5)
    word(folder, 0, "Stopped", ExitCode.STOPPED)
    assert decide(folder, requeues=0, max_requeues=1) == ExitCode.STOPPED
    assert "requeued: stopped on request; step-00000005 is saved" in capsys.readouterr().out
    assert decide(folder, requeues=1, max_requeues=1) == ExitCode.FAILED


@pytest.mark.parametrize("who", [0, None])
def test_stops_that_save_nothing_are_not_queued_for_ever(folder: RunFolder, who: int | None) -> None:
    word(folder, who, "Stopped", ExitCode.STOPPED)
    assert decide(folder, requeues=0, max_requeues=20) == ExitCode.STOPPED
    begin_next_attempt(folder, "requeued")
    word(folder, who, "Stopped", ExitCode.STOPPED)
    assert decide(folder, requeues=1, max_requeues=20) == ExitCode.FAILED


def test_a_person_who_takes_a_run_up_again_gets_all_its_requeues_back(folder: RunFolder) -> None:
    for step in (1, 2, 3):
        save(folder, step)
        begin_next_attempt(folder, "requeued")
    save(folder, 4)
    folder.stop_file.touch()
    assert decide(folder, requeues=0, max_requeues=3) == ExitCode.FAILED, "a new job without unfit nodes counts from 0"
    begin_next_attempt(folder, "resumed")
    save(folder, 5)
    folder.stop_file.touch()
    assert decide(folder, requeues=0, max_requeues=3) == ExitCode.STOPPED


def test_what_is_cancelled_is_not_queued_again(folder: RunFolder) -> None:
    save(folder, 5)
    folder.stop_file.write_text(CANCEL)
    assert decide(folder, requeues=0, max_requeues=20) == CANCELLED
    assert Result.read(folder.result_file).status == "stopped"


def test_a_killed_rank_starts_all_again_until_nothing_is_saved(folder: RunFolder) -> None:
    kill_rank_1(folder)
    assert decide(folder, requeues=0, max_requeues=0) == AGAIN
    save(folder, 5)
    kill_rank_1(folder)
    assert decide(folder, requeues=0, max_requeues=0) == AGAIN, "the start before saved nothing, but this one has"
    kill_rank_1(folder)
    assert decide(folder, requeues=0, max_requeues=0) == AGAIN
    kill_rank_1(folder)
    with pytest.raises(RankFailed, match="rank 1 on n2 failed first"):
        decide(folder, requeues=0, max_requeues=0)
    start = Attempt.read(folder)
    assert start is not None
    assert (start.count, start.cause, start.from_step, start.without_progress) == (4, "restart", 5, 1)
    notes = [event.text for event in EventTail(folder.events_file).read() if isinstance(event, Note)]
    assert notes[-1] == "killed by the system; resuming from step-00000005 after SIGKILL of rank 1 on n2"


def test_ranks_that_never_start_again_are_not_waited_for_for_ever(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    kill_rank_1(folder)
    assert decide(folder, requeues=0, max_requeues=20) == AGAIN
    assert decide(folder, requeues=0, max_requeues=20) == ExitCode.FAILED
    assert "2 attempts in a row without a checkpoint" in capsys.readouterr().out


def test_nodes_that_end_without_a_word_were_lost(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    save(folder, 5)
    assert decide(folder, requeues=0, max_requeues=20) == ExitCode.STOPPED
    assert "requeued: the nodes ended without reporting a failure" in capsys.readouterr().out


def test_what_a_nodes_launcher_was_refused_ends_the_job(folder: RunFolder) -> None:
    word(folder, None, "DataError", ExitCode.WRONG_REQUEST)
    with pytest.raises(RequestError, match="so it is"):
        decide(folder, requeues=0, max_requeues=20)


def test_a_mistake_in_a_nodes_launcher_is_told(folder: RunFolder) -> None:
    word(folder, None, "ValueError", ExitCode.FAILED)
    with pytest.raises(RankFailed, match=r"the launcher on n1 failed first, at .*: ValueError: so it is"):
        decide(folder, requeues=0, max_requeues=20)


def test_unfit_and_lost_nodes_are_named(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    save(folder, 5)
    report_unhealthy(folder, "n2", ["/tmp has 1 MiB free"])
    assert decide(folder, requeues=0, max_requeues=20) == ExitCode.STOPPED
    assert "requeued: without n2 (/tmp has 1 MiB free)" in capsys.readouterr().out
    assert (folder.path / "exclude").read_text() == "n2\n"
    lost_file(folder, 1).write_text("no heartbeat from n3 for 90 s\n")
    assert decide(folder, requeues=0, max_requeues=20) == ExitCode.STOPPED
    assert "requeued: no heartbeat from n3 for 90 s" in capsys.readouterr().out
