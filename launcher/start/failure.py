"""What the end of the ranks means for the one who started them."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from launcher.errors import ExitCode, OutOfMemory, RequestError, RunFailed, Stopped
from launcher.run.failures import Failure, last_lines, told_failures, write_page
from launcher.run.folder import RunFolder


@dataclass(frozen=True)
class Death:
    """A rank that ended badly.

    code: exit code, negative for a signal
    """

    rank: int
    code: int


def report_failure(folder: RunFolder, deaths: Sequence[Death]) -> NoReturn:
    """Raise what the first failure means, and keep it in `failure.txt` where it is one of the program."""
    first = _first(folder, deaths)
    if first.exit_code == ExitCode.WRONG_REQUEST:
        raise RequestError(first.message)
    if first.exit_code == ExitCode.STOPPED:
        raise Stopped(first.message)
    page = write_page(folder, first)
    if first.kind == OutOfMemory.__name__:
        raise OutOfMemory(f"{page}\nkept in {folder.failure_file}")
    raise RunFailed(f"{page}\nkept in {folder.failure_file}")


def _first(folder: RunFolder, deaths: Sequence[Death]) -> Failure:
    """The earliest failure that is no consequence; else a rank that was killed; else what the ranks noticed of it.

    A rank that only stopped was asked to, perhaps because another one had died.
    """
    told = told_failures(folder)
    causes = [failure for failure in told if not failure.is_consequence and failure.exit_code != ExitCode.STOPPED]
    spoken = {failure.rank for failure in told}
    silent = [death for death in deaths if death.rank not in spoken]
    killed = [death for death in silent if death.code < 0]
    if causes or (told and not killed):
        return [*causes, *told][0]
    death = [*killed, *silent, *deaths][0]
    kind = signal.Signals(-death.code).name if death.code < 0 else f"exit code {death.code}"
    return Failure.now(death.rank, kind, f"ended with {kind}", last_lines(folder, death.rank), int(ExitCode.FAILED))
