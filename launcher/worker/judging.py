"""Measuring the model on every validation set, and the one figure that decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from torch import nn

from launcher.measure.outcomes import Outcomes
from launcher.run.events import Evaluated
from launcher.worker.evaluating import Measured, evaluate
from launcher.worker.materials import Materials
from launcher.worker.progress import Metrics
from launcher.worker.selecting import TargetSelector, deciding_value_of
from launcher.worker.session import Session

BEFORE, RESULT = "before", "result"
"""The arms of every verdict: the model as it came, and what became of it."""


class Judge:
    """Evaluates the module on the validation sets; what was measured at a step is not measured again."""

    def __init__(
        self, session: Session, materials: Materials, module: nn.Module, selector: TargetSelector | None = None
    ) -> None:
        self._session, self._materials, self._module, self._selector = session, materials, module, selector
        self._known: dict[tuple[int, str], Measured] = {}

    def measure(self, step: int) -> Metrics:
        """Every set, with the weights after `step` optimizer steps."""
        found = self._evaluate(step, self._materials.validation)
        return {name: evaluation.as_dict() for name, evaluation in found.items()}

    def keep_outcomes(self, step: int, arm: str) -> None:
        """Keep in the run's folder what was made of each sample, once `measure` has measured that step."""
        session, columns = self._session, self._materials.task.outcome_columns
        for name, data in self._materials.validation.items():
            values = self._known[step, name].outcomes
            if values is not None:
                session.fence.check()
                Outcomes(data.folder.name, arm, columns, values).write(session.folder.outcomes(name, arm))

    def forget_outcomes(self, *but: int | None) -> None:
        """Let go of what was made of each sample, but for some steps."""
        for (step, name), found in self._known.items():
            if step not in but:
                self._known[step, name] = replace(found, outcomes=None)

    def deciding_value(self, step: int, before_batch: Callable[[], None]) -> float:
        """The metric that the job decides by, on the set that it decides by, or as if on the target.

        before_batch: called by all ranks alike; what it raises ends the evaluation
        """
        job = self._session.job
        name = job.deciding_set
        assert name is not None
        found = self._evaluate(step, [name], before_batch)[name]
        return deciding_value_of(found, job, self._selector)

    def _evaluate(
        self, step: int, names: Iterable[str], before_batch: Callable[[], None] = lambda: None
    ) -> dict[str, Measured]:
        session = self._session
        new = [name for name in names if (step, name) not in self._known]
        for name in new:
            session.enter("evaluating", name)
            self._known[step, name] = evaluate(
                self._module,
                self._materials.task,
                self._materials.validation[name],
                session.world,
                batch_size=session.plan.evaluation_batch,
                precision=session.plan.precision,
                before_batch=before_batch,
                keep_outcomes=True,
            )
        found = {name: self._known[step, name] for name in names}
        if new:
            session.log.write(
                Evaluated(
                    step=step,
                    metrics={name: found[name].metrics for name in new},
                    samples={name: found[name].samples for name in new},
                    seconds=sum(found[name].seconds for name in new),
                )
            )
        return found
