"""A run saved in the middle of an epoch goes on under any engine and world: same samples, same losses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from launcher.commands.selfcheck import engine_section
from launcher.errors import Stopped
from launcher.job.reading.job_file import load_job
from launcher.job.schema import Job
from launcher.plan.hardware import find_hardware
from launcher.plan.planner import make_plan
from launcher.run.attempts import Attempt
from launcher.run.events import EventLog, EventTail, Step
from launcher.run.folder import RunFolder
from launcher.worker.data.order import SampleOrder
from launcher.worker.rank.preemption import StopRequest
from launcher.worker.rank.process import RankEnv
from launcher.worker.rank.run_context import RunContext
from launcher.worker.rank.world import World
from launcher.worker.requests.selfcheck import make_material
from launcher.worker.training.recipe import fine_tune
from tests.worlds import Worlds

SAVED, STEPS = 7, 17
"""In the middle of the second epoch of five steps; ten steps after."""
ENGINES = ("single", "ddp", "fsdp", "zero1", "zero2", "zero3")
MOVES = [(1, 2), (2, 1), (2, 3)]


def engines_of(world: int) -> tuple[str, ...]:
    return tuple(name for name in ENGINES if name != ("ddp" if world == 1 else "single"))


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resuming")
    make_material(folder / "material")
    return folder


def lay_out(folder: Path, material: Path, engine: str, world: int) -> RunFolder:
    """The run folder of a job that clips, accumulates and warms up, planned for an engine and world."""
    job = Job.model_validate(
        {
            "name": "moving",
            "model": {"pretrained": str(material / "material" / "model"), "dropout": 0.0},
            "task": "text-classification",
            "data": {"train": str(material / "material" / "train.csv"), "cache": str(material / "cache")},
            "train": {
                "epochs": 4,
                "max_steps": STEPS,
                "global_batch_size": 16,
                "micro_batch_size": 3,
                "max_length": 32,
                "precision": "fp32",
                "clip_norm": 0.1,
                "optimizer": {"name": "adamw", "lr": 1e-3},
                "schedule": {"name": "linear", "warmup": 0.1},
            },
            "checkpoint": {"every_steps": SAVED, "keep": 9},
            "engine": engine_section(engine),
            "launch": {"processes": world, "device": "cpu", "runs": str(folder)},
        }
    )
    run = RunFolder(folder)
    run.logs.mkdir(parents=True, exist_ok=True)
    run.checkpoints.mkdir(exist_ok=True)
    run.write_job(job)
    run.write_plan(make_plan(job, run.job_file, find_hardware(), processes=world))
    return run


def train(rank: int, size: int, runs: list[tuple[str, int | None]]) -> list[list[list[int]]]:
    """Train each run, from a checkpoint or the beginning, perhaps to a stop; gives the sample ids of each step."""
    seen: list[list[list[int]]] = []
    for path, start in runs:
        folder, order, steps = RunFolder(Path(path)), SampleOrder.batch, list[list[int]]()

        def noted(self: Any, step: int, order: Any = order, steps: Any = steps) -> Any:
            steps.append(order(self, step).tolist())
            return order(self, step)

        SampleOrder.batch = noted  # type: ignore[method-assign]
        world = World.at(RankEnv(rank, rank, size), "cpu")
        log = EventLog(folder.events_file if rank == 0 else None)
        checkpoint = None if start is None else str(folder.checkpoints / f"step-{start:08d}")
        context = RunContext(
            load_job(folder.job_file), folder.plan(), folder, world, log, Attempt(checkpoint=checkpoint)
        )
        try:
            fine_tune(context, StopRequest())
        except Stopped:
            pass
        finally:
            SampleOrder.batch = order  # type: ignore[method-assign]
        log.close()
        seen.append(steps)
    return seen


def losses(run: Path) -> dict[int, float]:
    return {e.step: e.loss for e in EventTail(RunFolder(run).events_file).read() if isinstance(e, Step)}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("before", "after"), MOVES)
def test_every_engine_goes_on_from_every_other(
    before: int, after: int, material: Path, worlds: Worlds, tmp_path: Path
) -> None:
    firsts = {name: lay_out(tmp_path / name, material, name, before) for name in engines_of(before)}
    seen = worlds.run(before, train, [(str(run.path), None) for run in firsts.values()], timeout=500)[0]
    assert all(steps == seen[0] for steps in seen)
    assert len(seen[0]) == STEPS
    moved = {}
    for first, run in firsts.items():
        for then in engines_of(after):
            folder = tmp_path / f"{first}-{then}"
            shutil.copytree(run.checkpoints, folder / "checkpoints")
            moved[first, then] = lay_out(folder, material, then, after)
    found = worlds.run(after, train, [(str(run.path), SAVED) for run in moved.values()], timeout=600)[0]
    for ((first, then), run), steps in zip(moved.items(), found, strict=True):
        assert steps == seen[0][SAVED:], "the very next samples"
        went_on, resumed = losses(firsts[first].path), losses(run.path)
        assert list(resumed) == list(range(SAVED + 1, STEPS + 1))
        assert resumed[SAVED + 1] == pytest.approx(went_on[SAVED + 1], rel=1e-5), (first, then)
        for step, loss in resumed.items():
            assert loss == pytest.approx(went_on[step], rel=1e-4), (first, then, step)
        assert json.loads((run.checkpoints / f"step-{STEPS:08d}" / "progress.json").read_text())["step"] == STEPS
