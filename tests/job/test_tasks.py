"""What a task's own file says of it, as it is now."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.errors import RequestError
from launcher.job.sections.tasks import find_family


def test_a_file_that_is_edited_is_read_again(tmp_path: Path) -> None:
    for losses in (("mine",), ("mine", "other")):
        (tmp_path / "own.py").write_text(f"class Own:\n    losses = {losses}\n")
        assert find_family("own.py:Own", tmp_path).losses == losses


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (b"# caf\xe9\nclass Own: ...\n", "own.py: byte 5 is not UTF-8; save the file as UTF-8"),
        (b"class Own:\n    losses = (\n", "own.py, line 2: '\\(' was never closed"),
        (b"class Own:\n    losses = '\0'\n", "own.py: source code .*null bytes"),
    ],
    ids=["another encoding", "a slip", "no text"],
)
def test_a_file_that_is_no_python_is_told(code: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_bytes(code)
    with pytest.raises(RequestError, match=said):
        find_family("own.py:Own", tmp_path)
