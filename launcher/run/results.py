"""`result.json`: what a run came to."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from launcher.errors import NotAdopted, RequestError
from launcher.measure.compare.verdict import Verdict
from launcher.run.checkpoints import last_checkpoint, step_of
from launcher.run.events import EventTail, Step
from launcher.run.folder import RunFolder, write_whole
from launcher.run.history import history

if TYPE_CHECKING:
    import pandas

Interval = tuple[float, float]

SCHEMA = 2
"""Version of `result.json`. It grows where a field changes its meaning or its name; a file without a number has 1."""


@dataclass(frozen=True)
class Evaluation:
    """What one data set says of one model.

    samples: how many were counted, each once
    intervals: for each metric, the ends of its 95 % bootstrap interval
    """

    samples: int
    metrics: dict[str, float]
    intervals: dict[str, Interval]
    seconds: float


@dataclass(frozen=True)
class SetResult:
    """One validation set, measured on the pretrained model and on the result.

    intervals: ends of the 95 % interval of each metric
    change_interval: of each metric's change, over the same samples
    calibration: of `before` and `result` the calibration error, that after temperature scaling, and the temperature
    others: the metrics of other models on the same samples
    """

    samples: int
    before: dict[str, float]
    after: dict[str, float]
    before_interval: dict[str, Interval]
    after_interval: dict[str, Interval]
    change_interval: dict[str, Interval] = field(default_factory=dict)
    calibration: dict[str, dict[str, float]] = field(default_factory=dict)
    others: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What a run came to.

    status: done, or stopped and resumable
    steps: optimizer steps done
    seconds: spent training, over all starts
    model: the model folder, None where there is none yet
    best_step: the step whose validation was best, None where there is none with a figure
    verdict: whether the result should take the old model's place, None without validation data
    selector: what chose the step that became the result, None where nothing did
    result_step: the step whose weights the result is, None before the end
    run: the run's folder, where the result was read from; not kept in it, since folders move
    """

    status: Literal["done", "stopped"]
    name: str
    steps: int
    seconds: float
    model: str | None = None
    best_step: int | None = None
    sets: dict[str, SetResult] = field(default_factory=dict)
    verdict: Verdict | None = None
    selector: str | None = None
    result_step: int | None = None
    run: str | None = field(default=None, compare=False)

    def write(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        values = {"schema": SCHEMA, **asdict(self)}
        del values["run"]
        write_whole(path, json.dumps(values, indent=2) + "\n")

    def history(self) -> pandas.DataFrame:
        """Loss, rate, gradient norm and speed of each step, and the metrics of each evaluation, indexed by step.

        A metric is NaN at a step after which nothing was evaluated. The columns bear the names that trackers show.
        """
        import pandas

        assert self.run is not None, "only a result that was read from its run's folder has a history"
        return pandas.DataFrame(history(RunFolder(Path(self.run)).events_file)).set_index("step")

    @classmethod
    def read(cls, path: Path) -> Result:
        """Read back what `write` wrote. Raises RequestError where the file is not there or is damaged."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            insist_on_known_schema(path, values.pop("schema", 1), SCHEMA)
            values["sets"] = {name: _set_of(found) for name, found in values["sets"].items()}
            if values.get("verdict") is not None:
                values["verdict"] = Verdict.from_dict(values["verdict"])
            return replace(cls(**values), run=str(path.parent))
        except (OSError, ValueError, TypeError, KeyError, AttributeError, AssertionError, RecursionError) as error:
            raise RequestError(
                f"{path} cannot be read: {type(error).__name__}: {error}; the run's metrics are in "
                "metrics.jsonl, and its model is not affected"
            ) from error


def insist_on_known_schema(path: Path, written: int, known: int) -> None:
    """Raises RequestError for a file that a later version of adaptrun wrote."""
    if written > known:
        raise RequestError(
            f"{path} has schema version {written}, and this version of adaptrun reads {known} at most; use the "
            "version that wrote it, which environment.json names"
        )


def _set_of(values: dict[str, object]) -> SetResult:
    for when in ("before_interval", "after_interval", "change_interval"):
        intervals = values.get(when, {})
        assert isinstance(intervals, dict)
        values[when] = {metric: tuple(ends) for metric, ends in intervals.items()}
    return SetResult(**values)  # type: ignore[arg-type]


def mark_stopped(folder: RunFolder) -> None:
    """Note that a run was stopped on request, where no rank was far enough to do so; a full disk leaves it unsaid."""
    if folder.result() is not None:
        return
    last = last_checkpoint(folder.checkpoints)
    steps = 0 if last is None else step_of(last)
    seconds = {e.step: e.seconds for e in EventTail(folder.events_file).read() if isinstance(e, Step)}
    spent = sum(took for step, took in seconds.items() if step <= steps)
    with suppress(OSError):
        Result("stopped", folder.job_values()["name"], steps, spent).write(folder.result_file)


def insist_on_adoption(folder: RunFolder) -> None:
    """Where the job asks for it, raise NotAdopted unless the verdict is to adopt; the data may be gone by now."""
    asked = folder.job_values().get("verdict")
    if not (isinstance(asked, dict) and asked.get("gate")):
        return
    verdict = Result.read(folder.result_file).verdict
    if verdict is None or verdict.decision != "adopt":
        raise NotAdopted("inconclusive: there is no verdict" if verdict is None else str(verdict))
