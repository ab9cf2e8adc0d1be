"""A run that ranks started by hand make or take up is the one that the launcher would have made or taken up."""

from __future__ import annotations

import json
from pathlib import Path

from launcher.plan.planner import make_plan
from launcher.run.checkpoints import MARKER, PROGRESS, checkpoint_name
from launcher.run.folder import RunFolder
from launcher.worker.rank import run_context
from launcher.worker.rank.world import World
from tests.plan.test_plan import LAPTOP, job


def test_micro_batches_stay_as_small_as_running_out_of_memory_has_left_them(tmp_path: Path) -> None:
    made, file = job(tmp_path, launch={"runs": "runs"})
    checkpoint = RunFolder.create(made).checkpoints / checkpoint_name(3)
    checkpoint.mkdir(parents=True)
    (checkpoint / MARKER).write_text("{}")
    (checkpoint / PROGRESS).write_text(json.dumps({"step": 3, "micro_batch_limit": 2}))
    plan = make_plan(made, file, LAPTOP)
    assert plan.split.micro_batch > 2
    taken_up = run_context._make_run(file, [], World(), "auto").plan()
    assert (taken_up.split.micro_batch, taken_up.micro_batch_limit) == (2, 2)
