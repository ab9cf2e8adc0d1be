"""What validation adjusts: the best, the plateau, early stopping; and that all of it is remembered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from launcher.job.schema import Job
from launcher.worker.training.progress import Progress


def job(**sections: Any) -> Job:
    values = {"name": "x", "model": {"pretrained": "m"}, "task": "text-classification"}
    return Job.model_validate({**values, "data": {"train": "t.csv", "validation": "d.csv"}, **sections})


def judged(job: Job, values: list[float]) -> Progress:
    progress = Progress()
    for value in values:
        progress.step += 10
        progress.judge(job, value)
    return progress


@pytest.mark.parametrize(
    ("metric", "values", "best_step"),
    [("loss", [0.9, 0.5, 0.7], 20), ("accuracy", [0.5, 0.9, 0.7], 20), ("accuracy", [0.9, 0.9, 0.9], 10)],
)
def test_the_best_is_the_first_of_the_best(metric: str, values: list[float], best_step: int) -> None:
    progress = judged(job(validation={"metric": metric}), values)
    assert progress.best_step == best_step
    assert not progress.finished


def test_a_plateau_lowers_the_rate_and_waits_again() -> None:
    spec = job(train={"schedule": {"name": "plateau", "patience": 2, "factor": 0.5}})
    assert judged(spec, [1.0, 1.1]).plateau == 1.0
    assert judged(spec, [1.0, 1.1, 1.2]).plateau == 0.5
    assert judged(spec, [1.0, 1.1, 1.2, 1.3]).plateau == 0.5
    assert judged(spec, [1.0, 1.1, 1.2, 1.3, 1.4]).plateau == 0.25
    assert judged(spec, [1.0, 1.1, 0.9, 1.0]).plateau == 1.0


def test_small_changes_are_no_improvement() -> None:
    spec = job(train={"early_stopping": {"patience": 2, "min_delta": 0.1}})
    assert judged(spec, [1.0, 0.95, 0.91]).finished
    assert not judged(spec, [1.0, 0.95, 0.85]).finished


def test_early_stopping_after_so_many_without_improvement() -> None:
    spec = job(train={"early_stopping": {"patience": 2}})
    assert not judged(spec, [1.0, 1.1]).finished
    assert judged(spec, [1.0, 1.1, 1.2]).finished


def test_a_figure_that_is_no_number_is_never_the_best() -> None:
    progress = judged(job(train={"early_stopping": {"patience": 2}}), [1.0, float("nan"), float("nan")])
    assert progress.best_step == 10
    assert progress.finished
    assert judged(job(), [float("nan"), 1.0]).best_step == 20
    assert judged(job(), [float("nan"), float("nan")]).best_step is None


def test_everything_is_remembered_to_the_last_bit() -> None:
    spec = job(train={"schedule": {"name": "plateau", "patience": 1}, "early_stopping": {"patience": 3}})
    progress = judged(spec, [0.1 + 0.2, 1 / 3, 0.4])
    progress.before = {"d": {"samples": 3, "metrics": {"loss": 1 / 7}}}
    again = Progress.from_dict(json.loads(json.dumps(progress.as_dict())))
    assert again == progress
    again.judge(spec, 0.5)
    progress.judge(spec, 0.5)
    assert again == progress
