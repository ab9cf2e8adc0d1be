"""A terminal, pipe or file that lacks a sign of ours gets another in its place, and the command goes its way."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.run.folder import RunFolder
from launcher.terminal import write_plainly
from tests.cli import ADAPTRUN
from tests.small_run import write_job

ENCODINGS = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "strict": {"PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0"},
    "C": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
}


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8", "utf-16"])
def test_signs_that_an_encoding_lacks_are_written_with_those_it_has(encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    write_plainly(stream)
    print("2 × 3 → 6 … caf\udce9 😀 ⌈1.5⌉", file=stream, flush=True)
    written = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert written.startswith("2 ")
    assert "\\udce9" in written
    if encoding == "ascii":
        assert written == "2 x 3 -> 6 ... caf\\udce9 \\U0001f600 ceil(1.5)\n"


@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize("command", [["plan"], ["gap", "--no-features"], ["check", "--set", "data.train=f\u00fcr.csv"]])
def test_a_command_ends_as_it_would_anywhere(name: str, command: list[str], tmp_path: Path, tiny_model: Path) -> None:
    job = write_job(tmp_path, tiny_model)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHONUTF8"))}
    done = subprocess.run(
        [ADAPTRUN, command[0], job, *command[1:]],
        cwd=tmp_path, env=environment | ENCODINGS[name], capture_output=True, check=False,
    )  # fmt: skip
    said = done.stdout.decode("latin-1") + done.stderr.decode("latin-1")
    assert "Traceback" not in said
    assert done.returncode == (2 if command[0] == "check" else 0), said


def test_a_rank_writes_its_log_in_utf_8_whatever_the_terminal_has(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from launcher.run.folder import RunFolder;"
        "from launcher.worker.rank.process import RankEnv, RankProcess;"
        f"rank = RankProcess(RankEnv(), RunFolder(Path({str(tmp_path)!r}))); out = rank.keep_output();"
        "print('⌈log⌉', 'caf\\udce9'); print('⌈out⌉', file=out)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | ENCODINGS["ascii"], capture_output=True, check=True
    )
    assert done.stdout == b"ceil(out)\n"
    assert RunFolder(tmp_path).log(0).read_text(encoding="utf-8") == "⌈log⌉ caf\\udce9\n"
