"""What differs between runs: in what was asked, what was worked on, what ran, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from launcher.errors import RequestError
from launcher.job.schema import Job
from launcher.run.events import Evaluated, EventTail, Started, Step
from launcher.run.flatten import Value, flat
from launcher.run.folder import RunFolder, read_json
from launcher.run.results import Interval, Result

Rows = dict[str, list[Value | None]]
"""For each dotted name that differs, the value of each run; None where a run has none."""

PLANNED = ("engine", "device", "precision", "nodes", "processes", "split")
SURROUNDINGS = ("python", "platform", "cores", "gpus", "packages", "commit")
"""What of the environment can matter to a result or to its speed; hosts and command lines always differ."""

Verdict = Literal["equal", "overlap", "apart", "other samples", "unknown"]
"""Of two intervals. equal: so are the values themselves; apart: chance in the choice of samples does not explain it."""


@dataclass(frozen=True)
class RunMetric:
    """One metric of one set in one run.

    after: of the model that came out, or, with its `step` and no interval, of the latest that was evaluated
    verdict: against the first run; None for that one
    """

    samples: int
    before: float | None
    after: float | None
    step: int | None
    before_interval: Interval | None = None
    after_interval: Interval | None = None
    verdict: Verdict | None = None


@dataclass(frozen=True)
class RunFacts:
    """What one run tells of itself, as far as it is.

    state: done, stopped, failed, running or unfinished
    steps: optimizer steps done; seconds: spent training
    metrics: for each set, each metric
    damage: which of its files cannot be read
    """

    name: str
    path: str
    state: str
    steps: int
    total_steps: int | None
    seconds: float
    job: Mapping[str, Value] = field(repr=False)
    data: Mapping[str, Value] = field(repr=False)
    plan: Mapping[str, Value] = field(repr=False)
    environment: Mapping[str, Value] = field(repr=False)
    metrics: Mapping[str, Mapping[str, RunMetric]] = field(repr=False)
    damage: Sequence[str] = ()

    @classmethod
    def of(cls, run: RunFolder) -> RunFacts:
        """Read a run's folder; nothing outside of it has to be there any more, nor does the run have to be over."""
        tail = EventTail(run.events_file)
        events = list(tail.read())
        steps = {event.step: event.seconds for event in events if isinstance(event, Step)}
        begun = [event for event in events if isinstance(event, Started)]
        result = _result_of(run)
        state, plan = _state(run, result), read_json(run.plan_file) or {}
        evaluated = [event for event in events if isinstance(event, Evaluated)]
        is_done = result is not None and state == "done"
        return cls(
            name=run.path.name,
            path=str(run.path),
            state=state,
            steps=result.steps if is_done and result is not None else max(steps, default=0),
            total_steps=begun[-1].total_steps if begun else None,
            seconds=result.seconds if is_done and result is not None else sum(steps.values()),
            job=flat(_job_of(run)),
            data=_data_of(run, plan),
            plan=flat({name: plan[name] for name in PLANNED if name in plan}),
            environment=flat(
                {name: v for name, v in (read_json(run.environment_file) or {}).items() if name in SURROUNDINGS}
            ),
            metrics=_final(result) if is_done and result is not None else _so_far(evaluated),
            damage=run.damage(tail),
        )


@dataclass(frozen=True)
class Comparison:
    """Runs side by side. The first is what the others' metrics are held against."""

    runs: Sequence[RunFacts]
    job: Rows
    data: Rows
    plan: Rows
    environment: Rows
    metrics: Mapping[str, Mapping[str, Sequence[RunMetric | None]]]

    @classmethod
    def of(cls, folders: Sequence[RunFolder]) -> Comparison:
        """Compare two runs or more."""
        runs = [RunFacts.of(folder) for folder in folders]
        sets = dict.fromkeys(name for run in runs for name in run.metrics)
        return cls(
            runs,
            job=_differing([run.job for run in runs]),
            data=_differing([run.data for run in runs]),
            plan=_differing([run.plan for run in runs]),
            environment=_differing([run.environment for run in runs]),
            metrics={name: _side_by_side([run.metrics.get(name, {}) for run in runs]) for name in sets},
        )


def verdict(first: RunMetric | None, other: RunMetric | None) -> Verdict:
    """Whether a metric and its interval, each of the model that came out, are the same, or share a value."""
    if first is None or other is None or first.after_interval is None or other.after_interval is None:
        return "unknown"
    if first.samples != other.samples:
        return "other samples"
    if (first.after, first.after_interval) == (other.after, other.after_interval):
        return "equal"
    (low, high), (other_low, other_high) = first.after_interval, other.after_interval
    return "overlap" if low <= other_high and other_low <= high else "apart"


def _differing(columns: Sequence[Mapping[str, Value]]) -> Rows:
    names = dict.fromkeys(name for column in columns for name in column)
    rows = {name: [column.get(name) for column in columns] for name in names}
    return {name: row for name, row in rows.items() if any(value != row[0] for value in row)}


def _side_by_side(columns: Sequence[Mapping[str, RunMetric]]) -> dict[str, list[RunMetric | None]]:
    names = dict.fromkeys(name for column in columns for name in column)
    rows: dict[str, list[RunMetric | None]] = {}
    for name in names:
        first, *others = [column.get(name) for column in columns]
        rows[name] = [first, *(None if m is None else replace(m, verdict=verdict(first, m)) for m in others)]
    return rows


def _result_of(run: RunFolder) -> Result | None:
    """None where there is none yet, or where its file is damaged, which is reported separately."""
    try:
        return Result.read(run.result_file) if run.result_file.exists() else None
    except RequestError:
        return None


def _state(run: RunFolder, result: Result | None) -> str:
    if run.is_done():
        return "done"
    if run.is_claimed():
        return "running"
    if run.failure_file.exists():
        return "failed"
    return "unfinished" if result is None else result.status


def _job_of(run: RunFolder) -> Mapping[str, Any]:
    """With the defaults of today for what an earlier version did not know."""
    values = run.job_values()
    try:
        return Job.model_validate(values).as_dict()
    except ValidationError:
        return values


def _data_of(run: RunFolder, plan: Mapping[str, Any]) -> dict[str, Value]:
    """Of each set its samples, and what the prepared data are known by, which content, tokenizer and length decide."""
    prepared = read_json(run.prepared_file) or {}
    train = prepared.get("train")
    places = {**_named("train", train if isinstance(train, dict) else {"train": train})}
    held = prepared.get("validation")
    places |= _named("validation", held if isinstance(held, dict) else {}) | {"target": prepared.get("target")}
    found: dict[str, Value] = {}
    for name, place in places.items():
        if isinstance(place, str):
            found[f"{name}.content"] = Path(place).name
            samples = (read_json(Path(place) / "facts.json") or {}).get("samples")
            samples = plan.get("train_samples") if samples is None and name == "train" else samples
            if samples is not None:
                found[f"{name}.samples"] = samples
    return found


def _named(kind: str, places: Mapping[str, Any]) -> dict[str, Any]:
    """A single training set may have no name of its own."""
    return {kind if name == kind == "train" else f"{kind}.{name}": place for name, place in places.items()}


def _final(result: Result) -> dict[str, dict[str, RunMetric]]:
    return {
        name: {
            metric: RunMetric(
                found.samples,
                found.before.get(metric),
                after,
                None,
                found.before_interval.get(metric),
                found.after_interval.get(metric),
            )
            for metric, after in found.after.items()
        }
        for name, found in result.sets.items()
    }


def _so_far(evaluated: Sequence[Evaluated]) -> dict[str, dict[str, RunMetric]]:
    found: dict[str, dict[str, RunMetric]] = {}
    for event in evaluated:
        for name, metrics in event.metrics.items():
            known = found.setdefault(name, {})
            for metric, value in metrics.items():
                before = known[metric].before if metric in known else value
                is_later = event.step > 0
                known[metric] = RunMetric(
                    event.samples[name], before, value if is_later else None, event.step if is_later else None
                )
    return found
