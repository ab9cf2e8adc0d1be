"""What the end of the ranks means for the one who started them."""

from __future__ import annotations

from typing import NoReturn

from launcher.errors import ExitCode, OutOfMemory, RequestError, RunFailed, Stopped
from launcher.run.failure_kinds import FailureKind
from launcher.run.failures import Failure, first_failure, write_page
from launcher.run.folder import RunFolder

ENDED_BY_A_STOP = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGKILL")
"""What ends a rank that was asked to stop: it may be deaf while it meets the others, until the agent kills it."""


class RankFailed(RunFailed):
    """A run failed, with what is known of the rank that failed first."""

    def __init__(self, folder: RunFolder, failure: Failure) -> None:
        self.folder, self.failure = folder, failure
        page = write_page(folder, failure)
        is_kept = folder.failure_file.exists()
        super().__init__(f"{page}\n{'' if is_kept else 'could not be '}kept in {folder.failure_file}")


class RankOutOfMemory(RankFailed, OutOfMemory):
    """A step did not fit."""


def report_failure(folder: RunFolder, was_asked: bool = False) -> NoReturn:
    """Raise what the first failure means, and keep it in `failure.txt` unless it is a stop.

    was_asked: a stop was asked for, so that a rank which a signal ended, or that lost the others, was only stopped
    """
    first = first_failure(folder)
    if first is None:
        raise RunFailed(f"the ranks of {folder.path} failed without an error message; see {folder.logs}")
    if first.exit_code == ExitCode.WRONG_REQUEST:
        write_page(folder, first)  # for `adaptrun status`; whoever asked needs no more than the message
        raise RequestError(first.message)
    if first.exit_code == ExitCode.STOPPED:
        raise Stopped(first.message)
    if was_asked and (first.error in ENDED_BY_A_STOP or first.is_consequence):
        raise Stopped(
            "stopped at once; the same command resumes from the last complete checkpoint, or from the beginning"
        )
    if first.kind is FailureKind.MEMORY and first.error == OutOfMemory.__name__:
        raise RankOutOfMemory(folder, first)
    raise RankFailed(folder, first)
