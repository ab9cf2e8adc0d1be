"""The models of one comparison, trained one after the other in a process that has imported torch already."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from launcher.job.reading.job_file import load_job
from launcher.job.schema import Job
from launcher.plan.hardware import find_hardware
from launcher.plan.planner import make_plan
from launcher.run.attempts import Attempt
from launcher.run.events import EventLog
from launcher.run.folder import RunFolder
from launcher.run.results import Result


@dataclass(frozen=True)
class Figure:
    """One trained model.

    where: the target, with its source where it has one alone
    gain: on the target, over the first model of the comparison
    on_source: change of the accuracy on the source, where that is one set
    decision: of the run's own verdict against the first model
    """

    side: str
    method: str
    where: tuple[str, ...]
    accuracy: float
    gain: float
    on_source: float | None = None
    decision: str | None = None


def kept_figures(file: Path, measure: Callable[[], Iterable[Figure]]) -> list[Figure]:
    """What was measured already, else what is measured now and kept."""
    if not file.exists():
        _write(file, [asdict(figure) for figure in measure()])
    return [_read(values) for values in json.loads(file.read_text(encoding="utf-8"))]


class KeptFigures:
    """Figures by their names, in a file that is written after each, so that none is measured twice."""

    def __init__(self, file: Path) -> None:
        self._file = file
        stored = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        self._figures = {name: _read(values) for name, values in stored.items()}

    def __contains__(self, name: str) -> bool:
        return name in self._figures

    def __getitem__(self, name: str) -> Figure:
        return self._figures[name]

    def keep(self, name: str, figure: Figure) -> None:
        """Add one."""
        self._figures[name] = figure
        _write(self._file, {name: asdict(one) for name, one in self._figures.items()})


def _write(file: Path, values: Any) -> None:
    beside = file.with_suffix(".partial")
    beside.write_text(json.dumps(values), encoding="utf-8")
    beside.replace(file)


def _read(values: dict[str, Any]) -> Figure:
    return Figure(**{**values, "where": tuple(values["where"])})


class Arms:
    """Fine-tunes job after job; the first model is what the others are compared with.

    job: the sections that all have in common; of its validation sets, `new` is the target's and `old` the source's
    """

    def __init__(self, folder: Path, where: tuple[str, ...], job: dict[str, Any]) -> None:
        self._folder = folder
        self._where = where
        self._job = job
        self._first: tuple[str, dict[str, float]] | None = None

    def model(self, name: str) -> str:
        """The finished run of an arm, as a job names it."""
        return str(self._folder / name)

    def trained(self, name: str, *, data: dict[str, Any], **sections: Any) -> Figure:
        """Fine-tune one more."""
        base = None if self._first is None else self.model(self._first[0])
        job = {
            "name": "arm",
            **self._job,
            "data": {**self._job["data"], **data},
            "verdict": {"set": "new", "baseline": base},
            "launch": {"processes": 1, "device": "cpu", "runs": str(self._folder)},
            **sections,
        }
        result = fine_tuned(self._folder / name, job)
        found = {part: of_set.after["accuracy"] for part, of_set in result.sets.items()}
        if self._first is None:
            self._first = name, found
        before = self._first[1]
        assert result.verdict is not None
        return Figure(
            "adaptrun",
            name,
            self._where,
            found["new"],
            found["new"] - before["new"],
            found["old"] - before["old"] if "old" in found else None,
            None if base is None else result.verdict.decision,
        )


def fine_tuned(folder: Path, values: dict[str, Any]) -> Result:
    """Run a job to its end in this process alone; its run folder is `folder`."""
    from launcher.worker.rank.preemption import StopRequest
    from launcher.worker.rank.process import RankEnv
    from launcher.worker.rank.run_context import RunContext
    from launcher.worker.rank.world import World
    from launcher.worker.training.recipe import fine_tune

    run = RunFolder(folder)
    run.logs.mkdir(parents=True)
    run.checkpoints.mkdir()
    run.write_job(Job.model_validate(values))
    job = load_job(run.job_file)
    run.write_plan(make_plan(job, run.job_file, find_hardware(), processes=1))
    log = EventLog(run.events_file)
    context = RunContext(job, run.plan(), run, World.at(RankEnv(0, 0, 1), "cpu"), log, Attempt(checkpoint=None))
    try:
        fine_tune(context, StopRequest())
    finally:
        log.close()
    return Result.read(run.result_file)
