"""Folders of runs made by an earlier version, kept in `old/`: every reader of today reads them; training resumes."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
import yaml

from launcher.commands.status import status_of
from launcher.display.comparison import Comparison
from launcher.errors import RequestError
from launcher.job.reading.job_file import load_kept_job
from launcher.job.sections.adapters import LowRank
from launcher.measure.compare.per_sample_results import SCHEMA as SCHEMA_OF_SAMPLES
from launcher.measure.compare.per_sample_results import PerSampleResults
from launcher.run.events import EventTail, Step
from launcher.run.folder import RunFolder
from launcher.run.results import SCHEMA, Result
from tests.cli import adaptrun

OLD = Path(__file__).parent / "old" / "runs-of-0.1.0.tar.gz"
"""Made with 0.1.0 in /tmp/old: `adaptrun train whole.yaml` and `lora.yaml`; the checkpoints of step 6 were removed."""
ADAPTERS = {"kind": "lora", "rank": 2}
"""Of the run `lora`, as today's job file has them."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The old folder, as if the runs had been made here."""
    with tarfile.open(OLD) as archive:
        archive.extractall(tmp_path, filter="data")
    for file in (each for each in tmp_path.glob("runs/*/*") if each.suffix in (".yaml", ".json", ".jsonl")):
        file.write_text(file.read_text().replace("/tmp/old", str(tmp_path)))
    return tmp_path


def run_of(folder: Path, name: str) -> RunFolder:
    return RunFolder((folder / "runs" / name).resolve())


@pytest.mark.parametrize("name", ["whole", "lora"])
def test_status_compare_and_results_read_an_old_run(name: str, folder: Path) -> None:
    run = run_of(folder, name)
    status = status_of(run)
    assert (status.state, status.step, status.damage) == ("done", 6, ())
    result = Result.read(run.result_file)
    assert (result.status, result.steps, result.sets["near"].samples) == ("done", 6, 12)
    assert result.verdict is not None
    assert {found.candidate for found in result.verdict.comparisons} == {"majority class", "pretrained"}
    assert list(result.history().index) == [0, 1, 2, 3, 4, 5, 6]
    compared = Comparison.of([run_of(folder, "whole"), run_of(folder, "lora")]).runs
    assert [each.steps for each in compared] == [6, 6]
    kept = PerSampleResults.read(run.outcomes("near", "result"))
    assert kept is not None
    assert len(kept.values) == 12


def test_an_old_run_resumes_with_the_numbers_that_it_had(folder: Path) -> None:
    run = run_of(folder, "whole")
    before = {event.step: event.loss for event in EventTail(run.events_file).read() if isinstance(event, Step)}
    assert sorted(before) == [1, 2, 3, 4, 5, 6]
    adaptrun("train", "whole.yaml", "--resume", run.checkpoints / "step-00000003", cwd=folder)
    after = [event for event in EventTail(run.events_file).read() if isinstance(event, Step)][6:]
    assert [event.step for event in after] == [4, 5, 6]
    assert [event.loss for event in after] == pytest.approx([before[step] for step in (4, 5, 6)], rel=1e-5)


def test_an_old_run_with_adapters_resumes_from_a_job_in_the_new_spelling(folder: Path) -> None:
    run = run_of(folder, "lora")
    before = {event.step: event.loss for event in EventTail(run.events_file).read() if isinstance(event, Step)}
    values = yaml.safe_load((folder / "lora.yaml").read_text())
    (folder / "new.yaml").write_text(yaml.safe_dump(values | {"adapt": {"adapters": ADAPTERS}}))
    adaptrun("train", "new.yaml", "--resume", run.checkpoints / "step-00000003", cwd=folder)
    after = [event for event in EventTail(run.events_file).read() if isinstance(event, Step)][6:]
    assert [event.step for event in after] == [4, 5, 6]
    assert [event.loss for event in after] == pytest.approx([before[step] for step in (4, 5, 6)], rel=1e-5)


def test_a_job_kept_by_an_old_run_is_read_in_the_new_spelling(folder: Path) -> None:
    adapt = load_kept_job(run_of(folder, "lora").job_file).adapt
    assert (adapt.method, adapt.adapters) == ("finetune", LowRank.model_validate(ADAPTERS))


def test_files_of_a_later_version_are_refused_by_its_number(folder: Path) -> None:
    run = run_of(folder, "whole")
    values = json.loads(run.result_file.read_text())
    run.result_file.write_text(json.dumps({"schema": SCHEMA + 1, **values}))
    with pytest.raises(RequestError, match=f"schema version {SCHEMA + 1}"):
        Result.read(run.result_file)


def test_what_is_written_says_its_version(tmp_path: Path) -> None:
    Result("done", "x", steps=1, seconds=1.0).write(tmp_path / "result.json")
    assert json.loads((tmp_path / "result.json").read_text())["schema"] == SCHEMA
    import numpy as np
    import pyarrow.parquet as pq

    PerSampleResults("d", "m", ("loss",), np.zeros((2, 1))).write(tmp_path / "a.parquet")
    about = json.loads(pq.read_schema(tmp_path / "a.parquet").metadata[b"adaptrun"])
    assert about["schema"] == SCHEMA_OF_SAMPLES
