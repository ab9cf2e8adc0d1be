"""Every benchmark can be started from the repository, as `make bench` does, with nothing in the environment."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.worlds import REPOSITORY

BENCHMARKS = sorted(path.stem for path in (REPOSITORY / "benchmarks").glob("*.py") if path.stem != "measuring")


def test_what_each_imports_is_there() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    script = f"import sys; sys.path[0] = 'benchmarks'; import {', '.join(BENCHMARKS)}"
    command = [sys.executable, "-c", script]
    subprocess.run(command, cwd=REPOSITORY, env=environment, check=True, timeout=120)


def test_make_bench_runs_all() -> None:
    asked = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert [name for name in BENCHMARKS if f"benchmarks/{name}.py" not in asked] == []
