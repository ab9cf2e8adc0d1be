"""Measuring the model on every validation set, and the one figure that decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict

from torch import nn

from launcher.run.events import Evaluated
from launcher.run.results import Evaluation
from launcher.worker.evaluating import evaluate
from launcher.worker.materials import Materials
from launcher.worker.progress import Metrics
from launcher.worker.session import Session


class Judge:
    """Evaluates the module on the validation sets; what was measured at a step is not measured again."""

    def __init__(self, session: Session, materials: Materials, module: nn.Module) -> None:
        self._session, self._materials, self._module = session, materials, module
        self._known: dict[tuple[int, str], Evaluation] = {}

    def measure(self, step: int) -> Metrics:
        """Every set, with the weights after `step` optimizer steps."""
        found = self._evaluate(step, self._materials.validation)
        return {name: asdict(evaluation) for name, evaluation in found.items()}

    def deciding_value(self, step: int, before_batch: Callable[[], None]) -> float:
        """The metric that the job decides by, on the set that it decides by.

        before_batch: called by all ranks alike; what it raises ends the evaluation
        """
        job = self._session.job
        name = job.deciding_set
        assert name is not None
        value: float = self._evaluate(step, [name], before_batch)[name].metrics[job.validation.metric]
        return value

    def _evaluate(
        self, step: int, names: Iterable[str], before_batch: Callable[[], None] = lambda: None
    ) -> dict[str, Evaluation]:
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
