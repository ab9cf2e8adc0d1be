"""What a stage draws, at which rate it learns and whether it is validated follow from the job and the step alone."""

from __future__ import annotations

import ast
from math import cos, pi
from pathlib import Path
from typing import Any

import pytest

from launcher.job.schema import Job
from launcher.plan.stages import StagePlan, plan_stages

LAUNCHER = Path(__file__).resolve().parents[2] / "launcher"
PEAK = 0.01


def job_of(adapt: dict[str, Any], **schedule: Any) -> Job:
    return Job.model_validate(
        {
            "name": "staged",
            "model": {"pretrained": "minilm"},
            "task": "text-classification",
            "data": {"train": "train.csv", "target": "target.csv"},
            "adapt": adapt,
            "train": {"global_batch_size": 16, "optimizer": {"lr": PEAK}, "schedule": schedule},
        }
    )


def planned(adapt: dict[str, Any], steps: int, target: int = 0, **schedule: Any) -> StagePlan:
    return plan_stages(job_of(adapt, **schedule), steps, target)


def rates(stages: StagePlan) -> list[float]:
    return [stages.at(step).rate.at(step) for step in range(stages.total_steps)]


def cosine(steps: int, peak: float = PEAK) -> list[float]:
    return [peak * (1 + cos(pi * step / steps)) / 2 for step in range(steps)]


def test_continued_pretraining_comes_first_with_a_schedule_of_its_own() -> None:
    stages = planned({"method": "dapt", "epochs": 2, "lr": 0.5}, steps=6, target=33)
    assert [(s.name, s.start, s.end, s.samples) for s in stages.stages] == [
        ("continued pre-training", 0, 6, "target"),  # two passes of ⌈33 / 16⌉ steps
        ("training", 6, 12, "labelled"),
    ]
    assert rates(stages) == pytest.approx([*cosine(6, 0.5), *cosine(6)])
    assert stages.epochs_since == 6, "the epochs of the run are those of the labelled samples"
    assert [stage.is_validated for stage in stages.stages] == [False, True]


def test_continued_pretraining_takes_the_rate_of_the_optimizer_and_ends_early_where_the_job_says_so() -> None:
    stages = planned({"method": "dapt", "max_steps": 2}, steps=4, target=70, name="linear")
    assert rates(stages) == pytest.approx([PEAK, PEAK / 2, PEAK, PEAK * 3 / 4, PEAK / 2, PEAK / 4])


def test_a_linear_probe_has_a_constant_rate_and_belongs_to_the_epochs() -> None:
    stages = planned({"probe": {"steps": 0.25, "lr": 0.7}}, steps=8, warmup=0.5)
    assert [(stage.name, stage.start, stage.end) for stage in stages.stages] == [
        ("linear probe", 0, 2),
        ("training", 2, 8),
    ]
    warm = [PEAK * share for share in (1 / 3, 2 / 3, 1)]  # half of the six steps that are scheduled
    assert rates(stages) == pytest.approx([0.7, 0.7, *warm, *cosine(3)])
    assert stages.epochs_since == 0
    assert all(stage.is_validated and stage.samples == "labelled" for stage in stages.stages)


def test_unfreezing_cuts_training_and_keeps_its_schedule() -> None:
    spec = {"unfreeze": 2}
    stages = planned(spec, steps=10)
    head, more, everything = (frozenset("abc"[: number + 1]) for number in range(3))
    cut = stages.with_learning([head, more, everything], job_of(spec).adapt)
    assert [(stage.name, stage.start, stage.end) for stage in cut.stages] == [
        ("unfreezing", 0, 2),
        ("unfreezing", 2, 4),
        ("training", 4, 10),
    ]
    assert rates(cut) == rates(stages) == pytest.approx(cosine(10))
    assert [span.learning for span in cut.spans] == [head, more, everything]
    assert [cut.since(name) for name in "abc"] == [0, 1, 2]


def test_one_engine_trains_stages_in_which_the_same_parameters_learn() -> None:
    spec = {"method": "dapt"}
    cut = planned(spec, steps=4, target=16).with_learning([frozenset("ab")], job_of(spec).adapt)
    assert len(cut.stages) == 2
    assert [(span.number, span.end) for span in cut.spans] == [(0, 5)]


@pytest.mark.parametrize(
    ("method", "samples"),
    [("mmd", "labelled and target"), ("self-training", "labelled and target"), ("shot", "target"), ("tent", "target")],
)
def test_a_method_says_what_a_step_of_training_draws(method: str, samples: str) -> None:
    assert [stage.samples for stage in planned({"method": method}, steps=3, target=40).stages] == [samples]


@pytest.mark.parametrize("file", ["worker/training/loop.py", "plan/steps.py", "plan/stages.py"])
def test_the_loop_and_the_stages_know_no_method(file: str) -> None:
    tree = ast.parse((LAUNCHER / file).read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    of_methods = ("launcher.job.sections.methods", "launcher.adapt.methods")
    assert not {name for name in imported if name and name.startswith(of_methods)}
