"""Weights & Biases, online or in files that `wandb sync` sends later."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import wandb

from launcher.errors import ExitCode
from launcher.run.flatten import Value
from launcher.tracking.base import Point, Status, TrackedRun

CODES = {"done": ExitCode.DONE, "stopped": ExitCode.STOPPED}
STEP = "step"


class WeightsAndBiases:
    """History over our own step, since an evaluation may belong to an earlier step than the last that was trained."""

    def open(self, run: TrackedRun, known: str | None) -> str:
        """Begin a run, or resume the one of the same id."""
        settings = run.settings
        folder = run.path if settings.folder is None else Path(settings.folder) / run.name
        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=settings.project,
            entity=settings.entity,
            id=known or uuid.uuid4().hex[:12],
            name=run.name,
            mode=settings.mode,
            dir=str(folder),
            resume="allow",
            config=dict(run.parameters),
            allow_val_change=True,
            settings=wandb.Settings(console="off", silent=True, save_code=False),
        )
        self._run.define_metric("*", step_metric=STEP)
        return self._run.id

    def log(self, points: Sequence[Point]) -> None:
        """Append rows; the library's own process sends them."""
        for point in points:
            self._run.log({**point.values, STEP: point.step, "_timestamp": point.time})

    def conclude(self, status: Status, summary: Mapping[str, Value]) -> None:
        """Set the summary and the exit code, and wait until all is sent or in its file."""
        self._run.summary.update({"status": status, **summary})
        self._run.finish(exit_code=int(CODES.get(status, ExitCode.FAILED)))
