"""The batch scripts that the example profiles give, kept to be read; `python -m tests.cluster.golden` writes them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from launcher.cluster.profile import load_profile
from launcher.cluster.script import render_script

HERE = Path(__file__).parent / "golden"
PROFILES = Path(__file__).resolve().parents[2] / "slurm"
RUNS = Path("/scratch/me/runs")
SCRIPTS: Mapping[str, tuple[str, tuple[str, ...], str | None]] = {
    "plain": ("example.yaml", ("reviews-20260101-000000",), None),
    "gpus": ("gpus.yaml", ("reviews-20260101-000000",), None),
    "container": ("container.yaml", ("reviews-20260101-000000",), None),
    "conda": ("conda.yaml", ("reviews-20260101-000000",), None),
    "array": ("example.yaml", ("reviews-20260101-000000", "reviews-20260101-000000-1"), "1234"),
}
"""For each: the profile, the runs, and the job that it waits for."""


@contextmanager
def elsewhere() -> Iterator[None]:
    """Inside, this is nobody's machine."""
    with patch.object(sys, "executable", "/opt/adaptrun/bin/python"), patch.dict(os.environ, HOME="/home/me"):
        yield


def script(name: str) -> str:
    """One of the scripts, as it is rendered now."""
    profile, runs, after = SCRIPTS[name]
    with elsewhere():
        return render_script("reviews", [RUNS / run for run in runs], load_profile(PROFILES / profile), after)


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    for each in SCRIPTS:
        (HERE / f"{each}.sbatch").write_text(script(each), encoding="utf-8")
