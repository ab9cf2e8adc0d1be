"""What is kept of each sample is the same at any world size, and the metrics follow from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.families import JOBS, job_values
from tests.worlds import Worlds

Found = dict[str, Any]


def prepare_held(rank: int, size: int, folder: str) -> str:
    """Prepare the validation set of a job, once."""
    from launcher.job.reading.job_file import load_job
    from launcher.run.events import EventLog
    from launcher.run.folder import RunFolder
    from launcher.worker.data.inputs import prepare

    run = RunFolder(Path(folder))
    prepare(load_job(run.job_file), run, EventLog(None))
    return str(run.prepared_file)


def outcomes_of(rank: int, size: int, folder: str) -> Found | None:
    """Evaluate the untrained model of a job; rank 0 tells what was gathered, in which order, and the metrics."""
    import json

    import torch

    from launcher.data.prepared import Prepared
    from launcher.job.pretrained import find_pretrained
    from launcher.job.reading.job_file import load_job
    from launcher.models import task_class
    from launcher.models.weights import loading
    from launcher.run.folder import RunFolder
    from launcher.worker.evaluation.evaluate import evaluate
    from launcher.worker.rank.world import World

    run = RunFolder(Path(folder))
    job, places = load_job(run.job_file), json.loads(run.prepared_file.read_text())
    kind, pretrained = task_class(job.task, job.train.loss.name), find_pretrained(job.model)
    facts = Prepared(Path(places["train"]["train"])).facts
    config = loading.load_config(pretrained, job.model)
    processor = loading.load_processor(pretrained, job.model, kind.processor_class)
    task = kind(processor, facts.labels, job.train, facts.counts)
    task.configure(config)
    torch.manual_seed(0)
    model = loading.load_model(pretrained, job.model, kind.auto_class, facts.labels, config).model
    data = Prepared(Path(places["validation"]["held"]))
    found = evaluate(
        task.build(model), task, data, World(rank, rank, size), batch_size=2, keep_outcomes=True
    )  # fmt: skip
    assert (found.outcomes is None) == (rank > 0)
    if found.outcomes is None:
        return None
    again = task.resampled(found.outcomes, np.ones((1, len(data))))
    return {
        "outcomes": found.outcomes,
        "columns": task.result_columns,
        "metrics": found.metrics,
        "again": {name: float(value[0]) for name, value in again.items()},
        "right": task.right(found.outcomes) if task.yes_or_no else None,
        "yes_or_no": task.yes_or_no,
    }


@pytest.mark.parametrize("name", JOBS)
def test_outcomes_are_the_same_at_any_world_size_and_give_the_metrics(
    name: str, worlds: Worlds, tmp_path: Path
) -> None:
    from launcher.job.schema import Job
    from launcher.run.folder import RunFolder

    run = RunFolder.create(Job.model_validate(job_values(name, tmp_path)), tmp_path / "run")
    worlds.run(1, prepare_held, str(run.path))
    found = [worlds.run(size, outcomes_of, str(run.path))[0] for size in (1, 2, 3)]
    alone = found[0]
    assert alone["outcomes"].shape == (9, len(alone["columns"]))
    assert alone["again"] == pytest.approx(alone["metrics"], rel=1e-6)
    if alone["yes_or_no"]:
        assert alone["right"].mean() == pytest.approx(alone["metrics"][alone["yes_or_no"]])
    for other in found[1:]:
        np.testing.assert_array_equal(other["outcomes"], alone["outcomes"])


def test_spearman_of_repeated_samples_equals_scipy() -> None:
    from scipy import stats

    from launcher.models.tasks.text_regression import weighted_spearman

    draw = np.random.default_rng(0)
    one, other = draw.integers(0, 8, 40).astype(float), draw.normal(size=40).round(1)
    weights = draw.poisson(1.0, (30, 40)).astype(float)
    found = weighted_spearman(one, other, weights)
    for row, value in zip(weights.astype(int), found, strict=True):
        assert value == pytest.approx(stats.spearmanr(np.repeat(one, row), np.repeat(other, row)).statistic)


def test_a_sample_that_comes_twice_or_never_is_an_error() -> None:
    from launcher.measure.compare.per_sample_results import in_order

    rows = np.arange(6.0).reshape(3, 2)
    assert in_order(np.array([2, 0, 1]), rows, 3).tolist() == [[2, 3], [4, 5], [0, 1]]
    for ids, samples in (([0, 0, 1], 3), ([0, 1, 2], 4), ([0, 1, 3], 3)):
        with pytest.raises(RuntimeError, match=f"3 results were gathered for {samples} samples"):
            in_order(np.array(ids), rows, samples)


def test_outcomes_come_back_from_their_file(tmp_path: Path) -> None:
    from launcher.measure.compare.per_sample_results import PerSampleResults

    kept = PerSampleResults("key", "/runs/a/model", ("loss", "right"), np.array([[0.1, 1], [np.nan, 0]]))
    kept.write(tmp_path / "set" / "result.parquet")
    found = PerSampleResults.read(tmp_path / "set" / "result.parquet")
    assert found is not None
    assert (found.data, found.model, found.columns) == (kept.data, kept.model, kept.columns)
    np.testing.assert_array_equal(found.values, kept.values)
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["result.parquet"]
    (tmp_path / "other.parquet").write_bytes(b"PAR1 and no more")
    assert PerSampleResults.read(tmp_path / "other.parquet") is None
    assert PerSampleResults.read(tmp_path / "none.parquet") is None
