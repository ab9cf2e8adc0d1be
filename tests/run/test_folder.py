"""The folder of a request that is answered at once."""

from __future__ import annotations

import shutil

import pytest

from launcher.errors import RequestError, RunFailed
from launcher.run.folder import temporary_folder


def test_what_an_answered_or_wrong_request_needed_is_removed() -> None:
    with temporary_folder() as folder:
        assert folder.logs.is_dir()
    assert not folder.path.exists()
    with pytest.raises(RequestError), temporary_folder() as folder:
        raise RequestError("no such column")
    assert not folder.path.exists()


def test_what_failing_ranks_said_can_still_be_read() -> None:
    with pytest.raises(RunFailed), temporary_folder() as folder:
        folder.failure_file.write_text("rank 0 failed first")
        raise RunFailed("kept in failure.txt")
    assert folder.failure_file.exists()
    shutil.rmtree(folder.path)
