"""A call in a process of its own, so that the caller's stays as it is.

Starting ranks takes signal handlers and children, and holds the lock of a run; none of it belongs into a notebook, or
a program that has children and handlers of its own. The two meet in a temporary folder:

    request.json    what is asked
    begun           for `train`: the run, as soon as it is known
    answer          what came of it, or
    error           the exception that ended it
    log             what the process said besides
"""

from __future__ import annotations

import json
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from launcher.errors import AdaptrunError, RunFailed, Stopped
from launcher.run.folder import write_whole
from launcher.supervise.stop_requests import StopRequests

PAUSE = 0.2


class Child:
    """The process of one call. A signal to the caller asks it to stop; the caller's end does so too."""

    def __init__(self, call: str, **asked: Any) -> None:
        self._asked = {"call": call, **asked}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="adaptrun-")))
            (self._folder / "request.json").write_text(json.dumps(self._asked), encoding="utf-8")
            self._requests = stack.enter_context(StopRequests().listening())
            log = stack.enter_context((self._folder / "log").open("w"))
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "launcher.api.child", str(self._folder)],
                stdin=subprocess.PIPE,  # its end tells the child that this process is gone
                stdout=log,
                stderr=log,
                start_new_session=True,  # a terminal's Ctrl-C reaches it once, from here
            )
            stack.callback(self._end)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def wait_for(self, name: str) -> dict[str, Any]:
        """What the child says on the way, as soon as it does. Raises what ended the child before."""
        while not (self._folder / name).exists():
            if not self._goes_on():
                self._raise()
        return self._read(name)

    def wait(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Wait for its end. Raises the error that it ended with.

        meanwhile: called a few times a second
        """
        while self._goes_on():
            meanwhile()
        if self._process.returncode:
            self._raise()

    def answer(self) -> dict[str, Any]:
        """What came of the call."""
        return self._read("answer")

    def _read(self, name: str) -> dict[str, Any]:
        values: dict[str, Any] = json.loads((self._folder / name).read_text(encoding="utf-8"))
        return values

    def _goes_on(self) -> bool:
        self._requests.pass_on_to(self._process.pid)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(PAUSE)
        return self._process.returncode is None

    def _raise(self) -> NoReturn:
        """Raise what the child left, or, where it could leave nothing, that."""
        error = self._folder / "error"
        if error.exists():
            raise pickle.loads(error.read_bytes())
        if self._requests.count and self._process.returncode == -signal.SIGTERM:
            raise Stopped("stopped before the run was started; the same call starts it")
        said = (self._folder / "log").read_text(encoding="utf-8", errors="replace").strip()
        raise RunFailed(f"the launcher's process ended with {self._process.returncode}\n{said[-2000:]}".strip())

    def _end(self) -> None:
        """Where the caller gives up, the child saves, if there is anything to save, and ends."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def leave(folder: Path, name: str, values: object) -> None:
    """The child's side: say something."""
    write_whole(folder / name, json.dumps(values))


def leave_error(folder: Path, error: AdaptrunError) -> None:
    """The child's side: say what ended it."""
    (folder / "error").write_bytes(pickle.dumps(error))
