"""What a run's events say of each step, under the names that trackers and data frames show."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from launcher.run.events import Evaluated, EventTail, Step


def history(events_file: Path) -> list[dict[str, float]]:
    """A row for each optimizer step that was made or evaluated, in their order.

    Steps that were made again after a restart are there once, as they were made last.
    """
    rows: dict[int, dict[str, float]] = {}
    for event in EventTail(events_file).read():
        if isinstance(event, Step):
            rows.setdefault(event.step, {}).update(step_figures(event))
        elif isinstance(event, Evaluated):
            rows.setdefault(event.step, {}).update(evaluation_figures(event.metrics))
    return [{"step": step, **rows[step]} for step in sorted(rows)]


def step_figures(step: Step) -> dict[str, float]:
    """The figures of one optimizer step; epochs count from 1."""
    tokens = {"train/tokens_per_second": step.tokens / step.seconds} if step.tokens else {}
    return tokens | {
        "train/loss": step.loss,
        "train/lr": step.lr,
        "train/gradient_norm": step.gradient_norm,
        "train/epoch": step.epoch + 1,
        "train/samples_per_second": step.samples / step.seconds,
        "train/memory_gib": step.memory / 2**30,
    }


def evaluation_figures(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Each metric of each validation set."""
    return {f"validation/{name}/{metric}": value for name, of in metrics.items() for metric, value in of.items()}
