"""What a run may change when it is resumed changes none of its numbers; each of the other keys is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import RequestError
from launcher.job.reading.job_file import load_job
from launcher.job.schema import Job
from launcher.job.sections.marks import mark_of
from launcher.plan.planner import make_plan
from launcher.run.checkpoints import checkpoint_name
from launcher.run.events import Evaluated, EventTail, Step
from launcher.run.folder import RunFolder
from launcher.run.resuming import decide_run
from tests.job.test_marks import job_with, leaves
from tests.tiny import write_texts
from tests.verdicts import fine_tune_in
from tests.worlds import Worlds

MIDDLE, STEPS = 3, 6
MAY_CHANGE: dict[str, Any] = {
    "name": "another",
    "model.trust_code": ["own.py"],
    "data.cache": "another-cache",
    "data.allow_leakage": False,
    "train.micro_batch_size": 3,
    "train.activation_checkpointing": True,
    "validation.batch_size": 5,
    "verdict.metric": "accuracy",
    "verdict.set": "other",
    "verdict.must_hold": ["other"],
    "verdict.margin": 0.2,
    "verdict.gate": True,
    "checkpoint.every_steps": 2,
    "checkpoint.every_minutes": 1.0,
    "checkpoint.keep": 1,
    "checkpoint.in_background": False,
    "checkpoint.dtype": "bf16",
    "checkpoint.result": "last",
    "launch.runs": "other-runs",
    "launch.timeout": 7.0,
    "launch.patience": 2.0,
    "launch.max_restarts": 0,
    "track": ["tensorboard"],
    "adapt.adapters.merge": True,
}
"""By the path of each key: another value that a process of its own can have."""
ELSEWHERE = {
    **dict.fromkeys(("engine.name", "engine.deepspeed", "launch.processes"), "worker/test_resuming.py"),
    "train.packing": "engines/test_token_weights.py",
    "engine.block": "worker/test_model_check.py",
    "engine.nvme_path": "engines/test_optimizer_on_disk.py",
    **dict.fromkeys(("verdict.baseline", "verdict.compare"), "worker/test_model_comparison.py"),
}
"""Keys that one process on a CPU cannot show, and the tests that do."""
NEEDS_A_GPU = {"launch.device"}
ADAPTERS = "adapt={adapters: {kind: lora, rank: 2}}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("changed-keys")
    write_texts(folder / "train.csv", 24, seed=1)
    for number, name in enumerate(("held", "other"), start=2):
        write_texts(folder / f"{name}.csv", 10, seed=number)
    (folder / "own.py").write_text("")
    values = {
        "name": "first",
        "model": {"pretrained": str(tiny_model), "dropout": 0.0},
        "task": "text-classification",
        "data": {
            "train": "train.csv",
            "validation": {"held": "held.csv", "other": "other.csv"},
            "cache": "cache",
            "allow_leakage": True,
        },
        "train": {
            "max_steps": STEPS,
            "global_batch_size": 8,
            "micro_batch_size": 8,
            "max_length": 24,
            "optimizer": {"lr": 1e-3},
        },
        "validation": {"every": MIDDLE},
        "checkpoint": {"every_steps": MIDDLE, "keep": 9},
        "launch": {"processes": 1, "device": "cpu"},
    }
    (folder / "job.yaml").write_text(json.dumps(values))
    return folder


@pytest.fixture(scope="module")
def finished(folder: Path, worlds: Worlds) -> RunFolder:
    return trained(worlds, load_job(folder / "job.yaml"), folder / "finished")


@pytest.fixture(scope="module")
def finished_with_adapters(folder: Path, worlds: Worlds) -> RunFolder:
    return trained(worlds, load_job(folder / "job.yaml", [ADAPTERS]), folder / "finished-with-adapters")


def trained(worlds: Worlds, job: Job, place: Path, checkpoint: str | None = None) -> RunFolder:
    """A run in `place`, from the beginning or from a checkpoint."""
    run = RunFolder(place)
    for below in (run.logs, run.checkpoints):
        below.mkdir(parents=True, exist_ok=True)
    run.write_job(job)
    run.write_plan(make_plan(job, run.job_file, processes=1))
    worlds.run(1, fine_tune_in, str(run.path), checkpoint)
    return run


def numbers_of(run: RunFolder, after: int) -> list[tuple[float, ...]]:
    """Loss, gradient norm and rate of the later steps, and what validation gave."""
    events = list(EventTail(run.events_file).read())
    steps = [(one.loss, one.gradient_norm, one.lr) for one in events if isinstance(one, Step) and one.step > after]
    evaluated = [one for one in events if isinstance(one, Evaluated) and one.step > after]
    found = {one.step: one for one in reversed(evaluated)}  # the last of all may be of the best weights
    return [*steps, *(tuple(metrics["loss"] for metrics in one.metrics.values()) for one in found.values())]


def test_no_key_of_speed_or_report_is_forgotten() -> None:
    marks = {
        ".".join(path): mark_of(type(section), name).decides for path, section, name in leaves(job_with("finetune"))
    }
    assert {path for path, decides in marks.items() if decides and decides <= {"speed", "report"}} == {
        *MAY_CHANGE,
        *ELSEWHERE,
        *NEEDS_A_GPU,
    }
    assert all((Path(__file__).parents[1] / place).is_file() for place in ELSEWHERE.values())


@pytest.mark.parametrize("key", MAY_CHANGE)
def test_a_key_of_speed_or_report_changes_no_number(
    key: str, folder: Path, request: pytest.FixtureRequest, worlds: Worlds
) -> None:
    has_adapters = key.startswith("adapt.adapters.")
    finished: RunFolder = request.getfixturevalue("finished_with_adapters" if has_adapters else "finished")
    sets = [ADAPTERS] * has_adapters
    stopped = RunFolder(folder / f"stopped-{key}")
    shutil.copytree(finished.checkpoints / checkpoint_name(MIDDLE), stopped.checkpoints / checkpoint_name(MIDDLE))
    stopped.write_job(load_job(folder / "job.yaml", sets))
    changed = load_job(folder / "job.yaml", [*sets, f"{key}={json.dumps(MAY_CHANGE[key])}"])
    decision = decide_run(changed, str(stopped.path))
    assert decision.checkpoint == stopped.checkpoints / checkpoint_name(MIDDLE)
    trained(worlds, changed, stopped.path, str(decision.checkpoint))
    expected, found = numbers_of(finished, MIDDLE), numbers_of(stopped, MIDDLE)
    assert len(found) == len(expected) == STEPS - MIDDLE + 1
    for one, reference in zip(found, expected, strict=True):
        assert one == pytest.approx(reference, rel=1e-5)


@pytest.mark.parametrize(
    "change",
    ["train.seed=1", "train.optimizer.lr=0.5", "train.max_length=23", "validation.every=2", "data.train=other.csv"],
)
def test_a_key_that_decides_numbers_is_refused(change: str, folder: Path, finished: RunFolder) -> None:
    stopped = RunFolder(folder / f"refused-{change.partition('=')[0]}")
    shutil.copytree(finished.checkpoints / checkpoint_name(MIDDLE), stopped.checkpoints / checkpoint_name(MIDDLE))
    stopped.write_job(load_job(folder / "job.yaml"))
    with pytest.raises(
        RequestError, match=rf"differs .* in {change.partition('=')[0]}.*, which would change its numbers"
    ):
        decide_run(load_job(folder / "job.yaml", [change]), str(stopped.path))
