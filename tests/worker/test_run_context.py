"""A run that ranks started by hand make or take up is the one that the launcher would have made or taken up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.errors import AdaptrunError, ExitCode, RequestError, Stopped
from launcher.plan.planner import make_plan
from launcher.run.checkpoints import MARKER, PROGRESS, checkpoint_name
from launcher.run.folder import RunFolder
from launcher.worker.rank import run_context
from launcher.worker.rank.world import World
from tests.plan.test_plan import LAPTOP, job
from tests.worlds import Worlds


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


def fail_on_rank_0(rank: int, size: int, error: type[Exception]) -> int:
    def make() -> RunFolder:
        raise error("what befell it")

    try:
        run_context._run_of_rank_0(World(rank, rank, size), make)
    except AdaptrunError as ended:
        return int(ended.exit_code)
    except OSError:
        return int(ExitCode.FAILED)
    raise AssertionError("it went on")


@pytest.mark.parametrize(("error", "code"), [(OSError, 1), (RequestError, 2), (Stopped, 75)])
def test_by_hand_all_ranks_end_with_the_code_of_rank_0(error: type[Exception], code: int, worlds: Worlds) -> None:
    assert worlds.run(2, fail_on_rank_0, error) == [code, code]
