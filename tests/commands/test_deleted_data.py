"""What is deleted while a run goes costs it nothing that was known before."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli import adaptrun
from tests.supervise.test_failures import mischievous

DELETE = """
def delete_the_data_and_die():
    from pathlib import Path
    if Path("train.csv").exists():
        for name in ("train", "near", "far"):
            Path(f"{name}.csv").unlink()
        os.kill(os.getpid(), 9)
"""


def test_a_run_whose_data_are_deleted_in_mid_run_restarts_and_ends_well(tmp_path: Path, tiny_model: Path) -> None:
    mischievous(tmp_path, tiny_model, "calls == 12 and delete_the_data_and_die()")
    own = (tmp_path / "own.py").read_text()
    (tmp_path / "own.py").write_text(f"{own}\n{DELETE}")
    sets = ["train.max_steps=16", "launch.processes=1", "launch.max_restarts=1", "checkpoint.every_steps=4"]
    done = adaptrun("train", "job.yaml", *[word for text in sets for word in ("--set", text)], cwd=tmp_path)
    assert not (tmp_path / "train.csv").exists()
    assert "killed by the system; resuming from " in done.stdout
    assert "verdict: " in done.stdout
    assert json.loads(adaptrun("status", "runs/small", "--json", cwd=tmp_path).stdout)["state"] == "done"
