"""MLflow, on a server or in a SQLite file next to the runs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from launcher.run.flatten import Value
from launcher.tracking.base import Point, Status, TrackedRun

STATUSES = {"done": "FINISHED", "stopped": "KILLED", "failed": "FAILED", "interrupted": "KILLED"}
METRICS_A_CALL, PARAMETERS_A_CALL = 1000, 100
"""The most that MLflow takes at once."""
LONGEST_VALUE = 6000
NOT_IN_A_NAME = re.compile(r"[^\w\-. :/]")

Item = TypeVar("Item")


class MLflow:
    """Metrics with the time of their event: MLflow keeps one that comes again, alike in all, only once."""

    def open(self, run: TrackedRun, known: str | None) -> str:
        """Create a run in the experiment, or resume a known one. Parameters stay as they were first given."""
        local = f"sqlite:///{run.path.parent / 'mlflow.db'}"
        uri = run.settings.uri or os.environ.get("MLFLOW_TRACKING_URI") or local
        self._client = MlflowClient(tracking_uri=uri)
        self._id = known or self._created(run)
        self._client.update_run(self._id, status="RUNNING")
        there = self._client.get_run(self._id).data.params
        values = {NOT_IN_A_NAME.sub("_", name): str(value)[:LONGEST_VALUE] for name, value in run.parameters.items()}
        new = [Param(name, value) for name, value in values.items() if name not in there]
        for some in _parts(new, PARAMETERS_A_CALL):
            self._client.log_batch(self._id, params=some)
        return self._id

    def log(self, points: Sequence[Point]) -> None:
        """Store the metrics; they are there when this returns."""
        metrics = [
            Metric(name, value, int(1000 * point.time), point.step)
            for point in points
            for name, value in point.values.items()
        ]
        for some in _parts(metrics, METRICS_A_CALL):
            self._client.log_batch(self._id, metrics=some)

    def conclude(self, status: Status, summary: Mapping[str, Value]) -> None:
        """Tag the run with what it came to, and end it."""
        tags = [RunTag(name, str(value)) for name, value in {"status": status, **summary}.items()]
        self._client.log_batch(self._id, tags=tags)
        self._client.set_terminated(self._id, STATUSES[status])

    def _created(self, run: TrackedRun) -> str:
        project = run.settings.project
        if self._client.get_experiment_by_name(project) is None:
            with suppress(MlflowException):  # another run has created it meanwhile
                self._client.create_experiment(project)
        experiment = self._client.get_experiment_by_name(project)
        created: str = self._client.create_run(experiment.experiment_id, run_name=run.name).info.run_id
        return created


def _parts(items: list[Item], size: int) -> Iterator[list[Item]]:
    return (items[first : first + size] for first in range(0, len(items), size))
