"""Asking ranks for something: one call for every command that needs more of them than a training run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launcher.errors import Stopped
from launcher.job.requests import AnyAnswer, FolderRequest, Request
from launcher.run.folder import RunFolder, temporary_folder
from launcher.supervise.processes import run_ranks
from launcher.supervise.stop_requests import StopRequests


def ask_ranks(
    request: Request[AnyAnswer],
    *,
    processes: int = 1,
    threads: int = 1,
    watch: Callable[[], None] = lambda: None,
    requests: StopRequests | None = None,
    stopped: str = "",
) -> AnyAnswer:
    """Start ranks on this machine that serve a request, and return their answer.

    What they said stays only where they failed, or in the folder of the run that the request is about.

    threads: of each rank
    watch: called a few times a second meanwhile
    requests: those of the caller, where it runs several things that one request to stop ends
    stopped: what to say of a stop; empty says what the ranks say
    Raises what the first failing rank says: RequestError, Stopped or RunFailed.
    """
    with _places_for(request) as (private, folder):
        file = request.write(private)
        try:
            run_ranks(file, processes=processes, threads=threads, folder=folder, watch=watch, requests=requests)
        except Stopped:
            if stopped:
                raise Stopped(stopped) from None
            raise
        return request.read_answer(file)


@contextmanager
def _places_for(request: Request[Any]) -> Iterator[tuple[Path, RunFolder]]:
    """Where request and answer lie, which nobody else can read, and where the ranks keep their logs and failures."""
    if isinstance(request, FolderRequest):  # on the disk that the ranks write to in any case
        with tempfile.TemporaryDirectory(prefix=".request-", dir=request.folder) as private:
            yield Path(private), RunFolder(Path(request.folder))
    else:
        with temporary_folder() as folder:
            yield folder.path, folder
