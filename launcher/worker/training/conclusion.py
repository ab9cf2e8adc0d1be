"""Write the result of an attempt to the run's folder: `result.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from launcher.job.schema import Job
from launcher.measure.compare.verdict import Verdict
from launcher.run.results import Result, SetResult
from launcher.worker.evaluation.checkpoint_selection import selector_of
from launcher.worker.evaluation.evaluate import Metrics
from launcher.worker.evaluation.model_comparison import SetFindings
from launcher.worker.rank.run_context import RunContext
from launcher.worker.training.progress import Progress
from launcher.worker.training.result_weights import Chosen


def conclude(
    context: RunContext,
    progress: Progress,
    status: Literal["done", "stopped"],
    after: Metrics,
    findings: Mapping[str, SetFindings] | None = None,
    verdict: Verdict | None = None,
    chosen: Chosen | None = None,
    published: Path | None = None,
) -> Result:
    """Write the result of this attempt, and return it. Raises Superseded if a later one has begun."""
    context.fence.check()
    result = Result(
        status=status,
        name=context.job.name,
        steps=progress.step,
        seconds=progress.seconds,
        model=None if published is None else str(published),
        best_step=progress.best_step,
        sets={
            name: _set_result(progress.before[name], after[name], (findings or {}).get(name, SetFindings()))
            for name in after
        },
        verdict=verdict,
        selector=_selector_in_words(context.job, progress, chosen),
        result_step=None if chosen is None else chosen.step,
    )
    result.write(context.folder.result_file)
    context.enter(status)
    return result


def _selector_in_words(job: Job, progress: Progress, chosen: Chosen | None) -> str | None:
    if chosen is not None and chosen.lost is not None:
        return f"being the last, of step {chosen.step}, since {chosen.lost}"
    return None if progress.best_step is None else selector_of(job)


def _set_result(before: dict[str, Any], after: dict[str, Any], found: SetFindings) -> SetResult:
    return SetResult(
        samples=after["samples"],
        before=before["metrics"],
        after=after["metrics"],
        before_interval=before["intervals"],
        after_interval=after["intervals"],
        change_interval=found.change_interval,
        calibration=found.calibration,
        others=found.others,
    )
