"""Which failure was first, of what kind, and what the page says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from launcher.errors import Stopped
from launcher.run.attempts import begin_attempt
from launcher.run.failure_kinds import FailureKind, kind_of
from launcher.run.failures import Ended, Failure, first_failure, leave_ends, report_failure, write_page
from launcher.run.folder import RunFolder
from launcher.supervise import failure as end_of_ranks
from launcher.supervise.failure import RankFailed


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path)
    made.logs.mkdir()
    made.checkpoints.mkdir()
    begin_attempt(made, "first", None)
    return made


def failure(rank: int, time: float, error: str = "ValueError", message: str = "no", code: int = 1) -> Failure:
    return Failure(rank, "n1", time, error, message, "Traceback …", code)


@pytest.mark.parametrize(
    ("error", "message", "kind"),
    [
        ("OutOfMemoryError", "CUDA out of memory", FailureKind.MEMORY),
        ("NotFinite", "the loss is nan", FailureKind.NOT_FINITE),
        ("DataError", "row 3", FailureKind.DATA),
        ("DistBackendError", "NCCL error", FailureKind.COMMUNICATION),
        ("RuntimeError", "[gloo/transport] Connection reset by peer", FailureKind.COMMUNICATION),
        ("SIGKILL", "ended with SIGKILL", FailureKind.KILLED),
        ("OSError", "[Errno 28] No space left on device", FailureKind.DISK),
        ("OSError", "Connection refused", FailureKind.COMMUNICATION),
        ("CheckpointError", "could not be written", FailureKind.DISK),
        ("RuntimeError", "CUDA error: uncorrectable ECC error encountered", FailureKind.DEVICE),
        ("RuntimeError", "shapes do not match", FailureKind.CODE),
        ("Hung", "no progress for 30 s", FailureKind.HUNG),
    ],
)
def test_the_kind_follows_from_the_error_and_its_message(error: str, message: str, kind: FailureKind) -> None:
    assert kind_of(error, message) is kind


def test_what_may_pass_by_itself_is_not_what_would_come_again() -> None:
    assert {kind for kind in FailureKind if kind.may_pass} == {
        FailureKind.HUNG,
        FailureKind.COMMUNICATION,
        FailureKind.KILLED,
        FailureKind.DEVICE,
    }


def test_the_earliest_cause_is_first_whoever_speaks_before(folder: RunFolder) -> None:
    report_failure(folder, failure(2, 1.0, "RuntimeError", "Connection closed by peer [10.0.0.1]"), 1)
    report_failure(folder, replace(failure(3, 0.5), follows=True), 1)
    report_failure(folder, failure(1, 3.0), 1)
    report_failure(folder, failure(0, 2.0), 1)
    first = first_failure(folder)
    assert first is not None
    assert first.rank == 0


IN_A_COLLECTIVE = ("RuntimeError", "[gloo/transport] Connection closed by peer [10.0.0.1]")
WITH_THE_STORE = (
    "DistNetworkError",
    "Failed to recv, got 0 bytes. Connection was likely closed. Did the remote server shutdown or crash?",
)


@pytest.mark.parametrize("lost", [IN_A_COLLECTIVE, WITH_THE_STORE], ids=["in a collective", "with the store"])
def test_a_stop_that_was_asked_for_is_one_whatever_the_other_ranks_noticed(
    folder: RunFolder, lost: tuple[str, str]
) -> None:
    report_failure(folder, failure(1, 1.0, *lost), 1)
    report_failure(folder, failure(0, 2.0, "Stopped", "stopped at once", 75), 1)
    with pytest.raises(Stopped):
        end_of_ranks.report_failure(folder, was_asked=True)
    with pytest.raises(RankFailed):
        end_of_ranks.report_failure(folder, was_asked=False)


@pytest.mark.parametrize(("noticed", "error"), [(1.0, "RuntimeError"), (3.0, "Stopped")])
def test_of_a_lost_connection_and_a_stop_the_earlier_tells(folder: RunFolder, noticed: float, error: str) -> None:
    report_failure(folder, failure(0, noticed, "RuntimeError", "Connection closed by peer"), 1)
    report_failure(folder, failure(1, 2.0, "Stopped", "stopped at once", 75), 1)
    first = first_failure(folder)
    assert first is not None
    assert first.error == error


def test_a_killed_rank_goes_before_what_the_others_noticed(folder: RunFolder) -> None:
    report_failure(folder, failure(0, 1.0, "RuntimeError", "Connection closed by peer"), 1)
    leave_ends(folder, [Ended(0, "n1", 1, "training", 5), Ended(1, "n1", -9, "training, step 5", 5)], 1)
    first = first_failure(folder)
    assert first is not None
    assert (first.rank, first.error, first.step) == (1, "SIGKILL", 5)


def test_what_an_earlier_start_left_does_not_count(folder: RunFolder) -> None:
    report_failure(folder, failure(0, 1.0), 1)
    begin_attempt(folder, "restart", None)
    assert first_failure(folder) is None
    report_failure(folder, failure(1, 2.0), 2)
    first = first_failure(folder)
    assert first is not None
    assert first.rank == 1


def test_the_page_names_all_that_is_asked_for(folder: RunFolder) -> None:
    leave_ends(
        folder, [Ended(0, "n1", 1, "", 0), Ended(1, "n2", None, "training, step 5, in the sum over the ranks", 5)], 1
    )
    told = replace(failure(0, 1.0, "OutOfMemoryError", "no room"), step=5, doing="training, step 5")
    page = write_page(folder, told)
    assert page == folder.failure_file.read_text()
    for part in (
        "rank 0 on n1 failed first, at ",
        "OutOfMemoryError: no room",
        "kind: out of memory",
        "it was in: training, step 5",
        "Traceback …",
        "rank 1 on n2: training, step 5, in the sum over the ranks; was ended",
        "what to do: lower train.micro_batch_size",
    ):
        assert part in page
