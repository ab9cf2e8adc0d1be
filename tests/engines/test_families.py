"""Each task family trains to the same numbers under every engine, into a folder that `transformers` loads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from launcher.job.schema import Job
from launcher.measure.compare.per_sample_results import PerSampleResults
from launcher.run.results import Result
from tests.families import JOBS, job_values
from tests.ways import STRATEGIES, assert_loads, losses_and_norms, train
from tests.worlds import Worlds

ALONE, *SHARED = STRATEGIES
GRID = [
    pytest.param(name, ways, marks=pytest.mark.slow if ways is SHARED else (), id=f"{name}-{len(ways)}")
    for number, name in enumerate(JOBS)
    for ways in ([SHARED[number % len(SHARED)]], SHARED)
]
"""Each family under one engine by turns; under all of them it is slow."""


@pytest.mark.parametrize(("name", "ways"), GRID)
def test_a_family_gives_the_same_numbers_under_every_engine(
    name: str, ways: list[tuple[str, int]], worlds: Worlds, tmp_path: Path
) -> None:
    job = Job.model_validate(job_values(name, tmp_path))
    runs = [train(worlds, tmp_path, job, *way) for way in (ALONE, *ways)]
    truth, expected = losses_and_norms(runs[0]), Result.read(runs[0].result_file).sets["held"]
    assert len(truth) == 2 * 6
    assert expected.after["loss"] != expected.before["loss"]
    assert set(expected.after_interval) == set(expected.after)
    for run in runs[1:]:
        assert losses_and_norms(run) == pytest.approx(truth, rel=1e-5, abs=1e-7), run.path
        found = Result.read(run.result_file).sets["held"]
        # answers that hardly vary yet, and may differ as much as below, have a correlation that hangs on their digits
        for measured, wanted in ((found.before, expected.before), (found.after, expected.after)):
            assert measured == pytest.approx(wanted, rel=1e-4, abs=1e-3)
        for candidate, bound in (("before", 1e-5), ("result", 2e-3)):
            one, other = (PerSampleResults.read(some.outcomes("held", candidate)) for some in (runs[0], run))
            assert one is not None
            assert other is not None
            assert (one.data, one.columns) == (other.data, other.columns)
            np.testing.assert_allclose(other.values, one.values, rtol=bound, atol=bound)
        assert found.change_interval.keys() == found.after.keys()
        assert_loads(run, JOBS[name].auto_class)
        assert json.loads((run.model / "adaptrun.json").read_text())["task"] == JOBS[name].task
