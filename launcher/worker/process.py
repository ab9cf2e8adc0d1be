"""What every rank does around its work: keep its output, die with its parent, leave word of a failure.

Nothing here imports torch, so that a rank's log already holds what torch says while it is imported.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from launcher.errors import AdaptrunError, ExitCode, RequestError
from launcher.run.folder import RunFolder, write_whole

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Place:
    """Which rank this process is: in the whole world of `size`, and on this machine."""

    rank: int = 0
    local_rank: int = 0
    size: int = 1

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Place:
        """Read torchrun's or deepspeed's variables, else those of srun's tasks, else one process alone."""
        if "RANK" in environment:
            names = "RANK", "LOCAL_RANK", "WORLD_SIZE"
        elif int(environment.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in environment:
            names = "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS"
            if "MASTER_ADDR" not in environment:
                raise RequestError(
                    "srun started several tasks, but none says where to meet; in the batch script set "
                    "MASTER_ADDR to the first node's address and MASTER_PORT to a free port"
                )
        else:
            return cls()
        return cls(*(int(environment.get(name, "0")) for name in names))


class RankProcess:
    """This process as a rank of a run.

    folder: where its output and its failure are kept; None until a run started by hand has made its folder
    """

    def __init__(self, place: Place, folder: RunFolder | None = None) -> None:
        self.place, self.folder = place, folder

    def keep_output(self) -> None:
        """Send the output of this process, and of the libraries below Python, to its own log."""
        assert self.folder is not None
        log = os.open(self.folder.log(self.place.rank), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)

    def run(self, work: Callable[[], None]) -> NoReturn:
        """Do the work and exit with its code; a failure leaves `rank-N.failure.json` for the launcher.

        The exit is immediate: after a failure the communication library's clean-up can wait for dead ranks.
        """
        _die_with_parent()
        try:
            work()
            code = int(ExitCode.DONE)
        except SystemExit as leave:
            code = leave.code if isinstance(leave.code, int) else int(ExitCode.FAILED)
        except BaseException as error:
            code = int(error.exit_code) if isinstance(error, AdaptrunError) else int(ExitCode.FAILED)
            self._report(error, code)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def _report(self, error: BaseException, code: int) -> None:
        print(error if isinstance(error, AdaptrunError) else traceback.format_exc(), file=sys.stderr)
        if self.folder is None:
            return
        failure = {
            "rank": self.place.rank,
            "host": socket.gethostname(),
            "time": time.time(),
            "class": type(error).__name__,
            "message": str(error),
            "traceback": traceback.format_exc(),
            "exit_code": code,
        }
        write_whole(self.folder.rank_failure(self.place.rank), json.dumps(failure))


def _die_with_parent() -> None:
    """Ask Linux for SIGKILL when the process that started this one ends; elsewhere there is no such thing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
