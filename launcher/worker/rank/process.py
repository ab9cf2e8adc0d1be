"""What every rank does around its work: keep its output, die with its parent, leave word of a failure.

Nothing here imports torch, so that a rank's log already holds what torch says while it is imported.
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

PR_SET_PDEATHSIG = 1
OURS = Path(__file__).resolve().parents[2]
LIBRARIES = {Path(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib", "purelib", "platlib")}


@dataclass(frozen=True)
class RankEnv:
    """Which rank this process is: in the whole world of `size`, and on this machine, which its cluster calls `node`.

    leader: where the ranks of several machines meet; empty where all are on this one
    """

    rank: int = 0
    local_rank: int = 0
    size: int = 1
    node: str = field(default_factory=socket.gethostname)
    leader: str = ""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> RankEnv:
        """Read torchrun's or deepspeed's variables, else those of srun's tasks, else one process alone.

        Raises RequestError where they name no place.
        """
        if "RANK" in environment:
            names = "RANK", "LOCAL_RANK", "WORLD_SIZE"
            is_alone = environment.get("LOCAL_WORLD_SIZE") == environment.get("WORLD_SIZE")
        elif _number("SLURM_NTASKS", environment, 1) > 1 and "SLURM_PROCID" in environment:
            names = "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS"
            is_alone = environment.get("SLURM_STEP_NUM_NODES") == "1"
            if "MASTER_ADDR" not in environment:
                raise RequestError(
                    "srun started several tasks, but none says where to meet; in the batch script set "
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
    """A variable that counts. Raises RequestError."""
    said = environment.get(name, str(default))
    if not re.fullmatch("[0-9]{1,9}", said):
        raise RequestError(f"{name} is {said!r} in the environment, where a number is needed; correct or unset it")
    return int(said)


class RankProcess:
    """This process as a rank of a run.

    folder: where its output and its failure are kept; None until a run started by hand has made its folder
    start: the count of the start it belongs to, 0 until a run started by hand knows it
    """

    def __init__(self, place: RankEnv, folder: RunFolder | None = None) -> None:
        self.place, self.folder = place, folder
        begun = None if folder is None else Attempt.read(folder)
        self.start = 0 if begun is None else begun.count
        self.heartbeat = Heartbeat.here()
        self.stop = StopRequest()
        self._by_hand = folder is None
        write_plainly()
        self._terminal = sys.stderr

    @classmethod
    def here(cls, folder: RunFolder | None = None) -> RankProcess:
        """The rank that this process's environment says it is; ends the process where it says none."""
        try:
            return cls(RankEnv.from_environment(), folder)
        except RequestError as error:
            print(f"adaptrun: {error}", file=sys.stderr)
            sys.exit(int(error.exit_code))

    def keep_output(self) -> TextIO:
        """Send the output of this process, and of the libraries below Python, to its own log.

        Returns what was its standard output.
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
                stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # a log is not the terminal it was
        faulthandler.register(DUMP_STACKS, all_threads=True)
        return output

    def run(self, work: Callable[[], None]) -> NoReturn:
        """Do the work and exit with its code; a failure leaves `rank-N.failure.json` for the launcher.

        The exit is immediate: after a failure the communication library's clean-up can wait for dead ranks.
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
        with suppress(OSError):  # of a log on a full disk
            sys.stdout.flush()
            sys.stderr.flush()
        release_claims()
        os._exit(code)

    def _report(self, error: BaseException, code: int) -> None:
        """Leave word of a failure; nobody else would tell the user of a run started by hand."""
        trace = "".join(traceback.format_exception(error))
        text = str(error) if isinstance(error, AdaptrunError) else trace
        if self.folder is not None or self.place.local_rank == 0:  # before that, the ranks would all say the same
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
    """A request to stop that came while something else was failing is not the failure; what it cut short is none.

    stopped: raised by a request. Where a library caught it, in the middle of an import say, what fails next follows.
    """
    if stopped is not None and not isinstance(error, Stopped):
        traceback.print_exception(error)
        return stopped
    while isinstance(error, Stopped) and error.__context__ is not None and not _was_caught(error.__context__):
        error = error.__context__
    return error


def _was_caught(error: BaseException) -> bool:
    """Whether an error came no further than to a library that caught it, as `Path.is_dir` does."""
    trace = error.__traceback__
    if trace is None:
        return False
    file = Path(trace.tb_frame.f_code.co_filename)
    return not file.is_relative_to(OURS) and any(file.is_relative_to(place) for place in LIBRARIES)


def _ignore_requests() -> None:
    """This process is ending anyway, and what it has to say must not be cut short."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _die_with_parent() -> None:
    """Ask Linux for SIGKILL when the process that started this one ends; elsewhere there is no such thing.

    A launcher of ours that ended before it was asked is no longer among the processes that this one comes from. Whoever
    else started this one is not known by number, so nothing can be said of it.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    launcher = os.environ.pop(LAUNCHER, "")
    if launcher and int(launcher) not in (os.getppid(), *(parent.pid for parent in psutil.Process().parents())):
        os.kill(os.getpid(), signal.SIGKILL)
