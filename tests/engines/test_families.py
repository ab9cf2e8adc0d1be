"""Each task family trains to the same numbers under every engine, into a folder that `transformers` loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launcher.job.schema import Job
from launcher.measure.outcomes import Outcomes
from launcher.plan.making import make_plan
from launcher.run.events import EventTail, Step
from launcher.run.folder import RunFolder
from launcher.run.results import Result
from launcher.start.selfcheck import engine_section
from tests.families import JOBS, job_values
from tests.verdicts import fine_tune_in
from tests.worlds import Worlds

WAYS = (("single", 1), ("ddp", 2), ("fsdp", 2), ("zero3", 2))


def train(worlds: Worlds, folder: Path, values: dict[str, Any], engine: str, size: int) -> RunFolder:
    """Train the job under an engine in a world that lives on."""
    changed = {"engine": engine_section(engine), "launch": {**values["launch"], "processes": size}}
    job = Job.model_validate({**values, **changed})
    run = RunFolder.create(job, folder / engine)
    run.write_plan(make_plan(job, run.job_file, processes=size))
    worlds.run(size, fine_tune_in, str(run.path))
    return run


def losses_and_norms(run: RunFolder) -> list[float]:
    steps = [event for event in EventTail(run.events_file).read() if isinstance(event, Step)]
    return [figure for step in steps for figure in (step.loss, step.gradient_norm)]


@pytest.mark.parametrize("name", JOBS)
def test_a_family_gives_the_same_numbers_under_every_engine(name: str, worlds: Worlds, tmp_path: Path) -> None:
    import transformers

    values = job_values(name, tmp_path)
    runs = [train(worlds, tmp_path, values, *way) for way in WAYS]
    truth, expected = losses_and_norms(runs[0]), Result.read(runs[0].result_file).sets["held"]
    assert len(truth) == 2 * 6
    assert expected.after["loss"] != expected.before["loss"]
    assert set(expected.after_interval) == set(expected.after)
    for run in runs[1:]:
        assert losses_and_norms(run) == pytest.approx(truth, rel=1e-5, abs=1e-7), run.path
        found = Result.read(run.result_file).sets["held"]
        for measured, wanted in ((found.before, expected.before), (found.after, expected.after)):
            assert measured == pytest.approx(wanted, rel=1e-4, abs=2e-4)
        for arm, bound in (("before", 1e-5), ("result", 2e-3)):
            one, other = (Outcomes.read(some.outcomes("held", arm)) for some in (runs[0], run))
            assert one is not None
            assert other is not None
            assert (one.data, one.columns) == (other.data, other.columns)
            np.testing.assert_allclose(other.values, one.values, rtol=bound, atol=bound)
        assert found.change_interval.keys() == found.after.keys()
        auto = getattr(transformers, JOBS[name].auto_class)
        _, loaded = auto.from_pretrained(run.model, output_loading_info=True)
        assert not any(loaded[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert json.loads((run.model / "adaptrun.json").read_text())["task"] == JOBS[name].task
