"""What every rank does around its work: redirect its output, exit with its parent, report a failure.

Nothing here imports torch, so that torch's output during import is already in the rank's log.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import re
import signal
import socket
import sys
import sysconfig
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn, TextIO

import psutil

from launcher.errors import AdaptrunError, ExitCode, RequestError, Stopped, Superseded
from launcher.run.attempts import Attempt
from launcher.run.claims import release_claims
from launcher.run.failures import Failure, first_failure, report_failure, write_page
from launcher.run.folder import RunFolder
from launcher.run.heartbeats import DUMP_STACKS, Heartbeat
from launcher.run.rendezvous import LAUNCHER
from launcher.run.results import mark_stopped
from launcher.terminal import PLAIN, write_plainly
from launcher.worker.rank.preemption import SIGNALS, StopRequest

PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15
OURS = Path(__file__).resolve().parents[2]
LIBRARIES = {Path(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib", "purelib", "platlib")}


@dataclass(frozen=True)
class RankEnv:
    """This process's rank in the world of `size`, and on this machine, whose cluster name is `node`.

    leader: rendezvous address of the ranks of several machines; empty if all are on this one
    """

    rank: int = 0
    local_rank: int = 0
    size: int = 1
    node: str = field(default_factory=socket.gethostname)
    leader: str = ""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> RankEnv:
        """Read torchrun's or deepspeed's variables, else those of srun's tasks, else one process alone.

        Raises RequestError if they are inconsistent.
        """
        if "RANK" in environment:
            names = "RANK", "LOCAL_RANK", "WORLD_SIZE"
            is_alone = environment.get("LOCAL_WORLD_SIZE") == environment.get("WORLD_SIZE")
        elif _number("SLURM_NTASKS", environment, 1) > 1 and "SLURM_PROCID" in environment:
            names = "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS"
            is_alone = environment.get("SLURM_STEP_NUM_NODES") == "1"
            if "MASTER_ADDR" not in environment:
                raise RequestError(
                    "srun started several tasks without a rendezvous address; in the batch script set "
                    "MASTER_ADDR to the first node's address and MASTER_PORT to a free port"
                )
        else:
            return cls()
        rank, local_rank, size = (_number(name, environment, 0) for name in names)
        if rank >= size:
            raise RequestError(f"{names[0]} is {rank}, and {names[2]} {size}: ranks are counted from 0 to one less")
        leader = environment.get("MASTER_ADDR", "")
        is_alone = is_alone or leader in ("localhost", "127.0.0.1", "::1")
        node = environment.get("SLURMD_NODENAME") or socket.gethostname()
        return cls(rank, local_rank, size, node, "" if is_alone else leader)


def _number(name: str, environment: Mapping[str, str], default: int) -> int:
    """An integer variable. Raises RequestError."""
    said = environment.get(name, str(default))
    if not re.fullmatch("[0-9]{1,9}", said):
        raise RequestError(f"{name} is {said!r} in the environment, and must be a number; correct or unset it")
    return int(said)


class RankProcess:
    """This process as a rank of a run.

    folder: the folder of its log and failure report; None until a run started by hand has made its folder
    start: number of its attempt, 0 until a run started by hand knows it
    """

    def __init__(self, place: RankEnv, folder: RunFolder | None = None) -> None:
        self.place, self.folder = place, folder
        _take_name(f"rank-{place.rank}")
        begun = None if folder is None else Attempt.read(folder)
        self.start = 0 if begun is None else begun.count
        self.heartbeat = Heartbeat.here()
        self.stop = StopRequest()
        self._by_hand = folder is None
        write_plainly()
        self._terminal = sys.stderr

    @classmethod
    def here(cls, folder: RunFolder | None = None) -> RankProcess:
        """The rank from this process's environment; exits if the environment is invalid."""
        try:
            return cls(RankEnv.from_environment(), folder)
        except RequestError as error:
            print(f"adaptrun: {error}", file=sys.stderr)
            sys.exit(int(error.exit_code))

    def keep_output(self) -> TextIO:
        """Redirect the output of this process, including native libraries, to its log.

        Returns the original standard output.
        """
        assert self.folder is not None
        self.folder.logs.mkdir(parents=True, exist_ok=True)
        log = os.open(self.folder.log(self.place.rank), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        sys.stdout.flush()
        sys.stderr.flush()
        output = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors=PLAIN, buffering=1)
        self._terminal = os.fdopen(os.dup(2), "w", encoding=sys.stderr.encoding, errors=PLAIN, buffering=1)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # not the terminal's
        faulthandler.register(DUMP_STACKS, all_threads=True)
        return output

    def run(self, work: Callable[[], None]) -> NoReturn:
        """Do the work and exit with its code; a failure is written to `rank-N.failure.json` for the launcher.

        The exit is immediate: after a failure the communication library's clean-up could wait for dead ranks.
        """
        _die_with_parent()
        try:
            self.stop.listen()
            work()
            code = int(ExitCode.DONE)
        except SystemExit as leave:
            code = leave.code if isinstance(leave.code, int) else int(ExitCode.FAILED)
        except BaseException as error:
            _ignore_requests()
            cause = _cause(error, self.stop.raised)
            code = int(cause.exit_code) if isinstance(cause, AdaptrunError) else int(ExitCode.FAILED)
            self._report(cause, code)
        with suppress(OSError):  # the log's disk may be full
            sys.stdout.flush()
            sys.stderr.flush()
        release_claims()
        os._exit(code)

    def _report(self, error: BaseException, code: int) -> None:
        """Report a failure, for a run started by hand also on the terminal."""
        trace = "".join(traceback.format_exception(error))
        text = str(error) if isinstance(error, AdaptrunError) else trace
        if self.folder is not None or self.place.local_rank == 0:  # before that, all ranks report the same
            with suppress(OSError):
                print(text, file=sys.stderr)
        if self.folder is not None and not isinstance(error, Superseded):
            beat = self.heartbeat.now()
            failure = replace(
                Failure.now(self.place.rank, type(error).__name__, str(error), trace, code),
                step=beat.step,
                doing=str(beat),
                follows=isinstance(error, AdaptrunError) and error.of_rank not in (None, self.place.rank),
            )
            report_failure(self.folder, failure, self.start)
            if self._by_hand and self.place.rank == 0 and isinstance(error, Stopped):
                mark_stopped(self.folder)
            if self._by_hand and code in (ExitCode.FAILED, ExitCode.WRONG_REQUEST):
                text = write_page(self.folder, first_failure(self.folder) or failure).rstrip("\n")
        if self._by_hand and self._terminal is not sys.stderr:
            print(f"adaptrun: {text}", file=self._terminal)


def _cause(error: BaseException, stopped: Stopped | None) -> BaseException:
    """The error to report: an error that was already raised, rather than a stop that came during it.

    stopped: raised by a request to stop. If a library caught it, as in an import, later errors are consequences.
    """
    if stopped is not None and not isinstance(error, Stopped):
        traceback.print_exception(error)
        return stopped
    while isinstance(error, Stopped) and error.__context__ is not None and not _was_caught(error.__context__):
        error = error.__context__
    return error


def _was_caught(error: BaseException) -> bool:
    """Whether a library caught the error, as `Path.is_dir` does."""
    trace = error.__traceback__
    if trace is None:
        return False
    file = Path(trace.tb_frame.f_code.co_filename)
    return not file.is_relative_to(OURS) and any(file.is_relative_to(place) for place in LIBRARIES)


def _ignore_requests() -> None:
    """Ignore signals: this process is exiting, and its report must not be interrupted."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _take_name(name: str) -> None:
    """Let `top` and `ps -o comm` show it; of a forked rank they would else show what it was forked from."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode())


def _die_with_parent() -> None:
    """Ask Linux for SIGKILL when the parent process exits; other systems do not support this.

    If adaptrun's launcher has already exited, it is no longer among this process's ancestors. Another parent is not
    known by its process id, so this is not checked for it.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    launcher = os.environ.pop(LAUNCHER, "")
    if launcher and int(launcher) not in (os.getppid(), *(parent.pid for parent in psutil.Process().parents())):
        os.kill(os.getpid(), signal.SIGKILL)
