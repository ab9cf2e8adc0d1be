"""Every error that a user is meant to read.

AdaptrunError              exit code 1
├── RequestError           2   what was asked for is wrong; nothing was trained
│   ├── JobError               the job file or a --set, all problems at once
│   ├── DataError              a data file, with file and row
│   ├── LeakageError           validation samples that are also trained on
│   └── ModelError             the pretrained model cannot be had as the job asks
│       └── UntrustedCode      a folder names code, and the user does not
├── RunFailed              1   a process failed; `failure.txt` in the run folder holds it
│   ├── OutOfMemory            a step did not fit; smaller micro-batches may
│   ├── NotFinite              step after step gave a loss or a gradient that is NaN or infinite
│   ├── Hung                   a rank made no progress for longer than its steps take
│   └── Superseded             a later start of the same run has begun; this one may write nothing
├── NotAdopted             1   the run went well, and its verdict is not to adopt the result
├── CheckpointError        1   a checkpoint cannot be read or written
│   └── DamagedCheckpoint  2   its files do not hold what was written, and no other may take its place
└── Stopped               75   stopped on request; the run can be resumed

Each says what is wrong, where, and what to do, in that order. The message is all that is printed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path


class ExitCode(IntEnum):
    """What the shell and the batch script are told."""

    DONE = 0
    FAILED = 1
    WRONG_REQUEST = 2
    STOPPED = 75


class AdaptrunError(Exception):
    """Base of the errors that are shown without a traceback.

    message: what no file can hold (half a character, bytes of a file's name that are no text) is escaped in it
    of_rank: the rank whose failure it is, where that is known and all ranks raise it
    """

    exit_code = ExitCode.FAILED

    def __init__(self, message: str, of_rank: int | None = None) -> None:
        super().__init__(message.encode(errors="backslashreplace").decode())
        self.of_rank = of_rank


class RequestError(AdaptrunError):
    """What was asked for is wrong; nothing was trained."""

    exit_code = ExitCode.WRONG_REQUEST


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a job file.

    where: `file:line:column`, or `--set` with its text
    path: the field, such as `train.optimizer.lr`
    message: what was found and what is allowed
    fix: the cheapest change that mends it, or empty
    """

    where: str
    path: str
    message: str
    fix: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.path}: {self.message}" if self.path else f"{self.where}: {self.message}"
        return f"{text}\n    fix: {self.fix}" if self.fix else text


class JobError(RequestError):
    """A job file with one or more problems, all of them listed."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[JobError], tuple[object, ...]]:
        return type(self), (self.problems,)


class DataError(RequestError):
    """A data file that cannot be used.

    row: 1 for the first sample after any header; None where the whole file is meant
    """

    def __init__(self, file: Path | str, message: str, row: int | None = None) -> None:
        self.file, self.message, self.row = str(file), message, row
        place = f"{file}, row {row}" if row is not None else f"{file}"
        super().__init__(f"{place}: {message}")

    def __reduce__(self) -> tuple[type[DataError], tuple[object, ...]]:
        return type(self), (self.file, self.message, self.row)


class LeakageError(RequestError):
    """Validation samples are also trained on, and the job does not allow it."""


class ModelError(RequestError):
    """The pretrained model cannot be had as the job asks."""


class UntrustedCode(ModelError):
    """A model folder names code of which the user has not named the file."""


class RunFailed(AdaptrunError):
    """A process of the run failed."""


class OutOfMemory(RunFailed):
    """A training step did not fit into the memory of a rank's device."""


class NotFinite(RunFailed):
    """Step after step gave a loss or a gradient that is not finite."""


class Hung(RunFailed):
    """A rank made no progress for longer than its steps take."""


class Superseded(RunFailed):
    """A later start of the same run has begun, and this one may write nothing any more."""


class NotAdopted(AdaptrunError):
    """The run ended well, and what it says of the result is not `adopt`, which was asked for."""


class CheckpointError(AdaptrunError):
    """A checkpoint cannot be read or written."""


class DamagedCheckpoint(CheckpointError):
    """The files of a checkpoint do not hold what was written, and no other may take its place."""

    exit_code = ExitCode.WRONG_REQUEST


class Stopped(AdaptrunError):
    """The run stopped on request and can be resumed."""

    exit_code = ExitCode.STOPPED
