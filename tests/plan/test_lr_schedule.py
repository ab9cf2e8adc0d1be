"""The learning rate is a function of the step alone, or of what validation said."""

from __future__ import annotations

import pytest

from launcher.job.schema import Job
from launcher.job.sections.training import Schedule
from launcher.plan.lr_schedule import LearningRate
from launcher.worker.training.progress import Progress


def rates(steps: int = 10, **settings: object) -> list[float]:
    schedule = LearningRate(Schedule.model_validate(settings), 1.0, steps)
    return [round(schedule.at(step), 6) for step in range(steps)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"name": "constant"}, [1.0] * 10),
        ({"name": "linear"}, [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]),
        ({"name": "linear", "min_lr": 0.5}, [1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55]),
        ({"name": "constant", "warmup": 0.2}, [0.5] + [1.0] * 9),
        ({"name": "constant", "warmup": 4}, [0.25, 0.5, 0.75] + [1.0] * 7),
    ],
)
def test_shapes(settings: dict[str, object], expected: list[float]) -> None:
    assert rates(**settings) == expected


def test_cosine_falls_from_the_peak_through_half_towards_the_floor() -> None:
    cosine = rates(100, name="cosine", min_lr=0.2)
    assert cosine[0] == 1.0
    assert cosine[50] == pytest.approx(0.6)
    assert cosine[-1] == pytest.approx(0.2, abs=1e-3)
    assert cosine == sorted(cosine, reverse=True)


def job(**train: object) -> Job:
    return Job.model_validate(
        {
            "name": "test",
            "task": "text-classification",
            "model": {"pretrained": "minilm"},
            "data": {"train": "a.csv", "validation": "b.csv"},
            "train": train,
        }
    )


def test_a_plateau_lowers_the_rate_each_time_patience_runs_out() -> None:
    plateau = job(schedule={"name": "plateau", "factor": 0.5, "patience": 2})
    progress = Progress()
    factors = []
    for loss in [1.0, 0.9, 0.95, 0.95, 0.8, 0.8, 0.8, 0.8, 0.8]:
        progress.judge(plateau, loss)
        factors.append(progress.plateau)
    assert factors == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125]


def test_early_stopping_counts_evaluations_without_improvement() -> None:
    stopping = job(early_stopping={"patience": 2, "min_delta": 0.1})
    progress = Progress()
    ended = []
    for loss in [1.0, 0.95, 0.85, 0.8, 0.8]:
        progress.judge(stopping, loss)
        ended.append(progress.finished)
    assert ended == [False, False, False, False, True]


def test_the_best_step_is_remembered_even_where_the_gain_is_small() -> None:
    progress = Progress()
    for step, loss in [(1, 1.0), (2, 0.999), (3, 1.1)]:
        progress.step = step
        progress.judge(job(), loss)
    assert (progress.best_step, progress.best) == (2, -0.999)


def test_progress_survives_a_checkpoint_to_the_last_bit() -> None:
    progress = Progress(step=3, seconds=0.1 + 0.2, plateau=1 / 3)
    progress.judge(job(early_stopping={"patience": 3}), 1 / 7)
    import json

    assert Progress.from_dict(json.loads(json.dumps(progress.as_dict()))) == progress
