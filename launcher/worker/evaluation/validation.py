"""Evaluate the model on every validation set, and by the deciding metric."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from torch import nn

from launcher.measure.compare.per_sample_results import PerSampleResults, Values
from launcher.run.events import Evaluated
from launcher.worker.data.inputs import Inputs
from launcher.worker.evaluation.checkpoint_selection import CheckpointSelector, deciding_value_of
from launcher.worker.evaluation.evaluate import DetailedEvaluation, Metrics, evaluate
from launcher.worker.rank.run_context import RunContext

BEFORE, RESULT = "before", "result"
"""The candidates of every verdict: the pretrained model and the result."""


class Validator:
    """Evaluates the module on the validation sets; results of a step are cached."""

    def __init__(
        self, context: RunContext, inputs: Inputs, module: nn.Module, selector: CheckpointSelector | None = None
    ) -> None:
        self._context, self._inputs, self._module, self._selector = context, inputs, module, selector
        self._known: dict[tuple[int, str], DetailedEvaluation] = {}

    @classmethod
    def of(cls, context: RunContext, inputs: Inputs, module: nn.Module, weights: dict[str, Values]) -> Validator:
        """The validator by labels, or for a target without labels by the job's selector.

        weights: of a validation set's samples, shared by the validators of all engines
        """
        return cls(context, inputs, module, CheckpointSelector.of(context, inputs, module, weights))

    def measure(self, step: int) -> Metrics:
        """The metrics on every set, with the weights after `step` optimizer steps."""
        found = self._evaluate(step, self._inputs.validation)
        return {name: evaluation.as_dict() for name, evaluation in found.items()}

    def keep_outcomes(self, step: int, candidate: str) -> None:
        """Write the per-sample results of a step to the run's folder; call `measure` for that step before."""
        context, columns = self._context, self._inputs.task.result_columns
        for name, data in self._inputs.validation.items():
            values = self._known[step, name].outcomes
            if values is not None:
                context.fence.check()
                PerSampleResults(data.folder.name, candidate, columns, values).write(
                    context.folder.outcomes(name, candidate)
                )

    def forget_outcomes(self, *but: int | None) -> None:
        """Free the per-sample results, except those of some steps."""
        for (step, name), found in self._known.items():
            if step not in but:
                self._known[step, name] = replace(found, outcomes=None)

    def deciding_value(self, step: int, before_batch: Callable[[], None]) -> float:
        """The deciding metric on the deciding set, or its estimate on the target.

        before_batch: called equally often on all ranks; an exception in it ends the evaluation
        """
        job = self._context.job
        name = job.deciding_set
        assert name is not None
        found = self._evaluate(step, [name], before_batch)[name]
        return deciding_value_of(found, job, self._selector, before_batch)

    def _evaluate(
        self, step: int, names: Iterable[str], before_batch: Callable[[], None] = lambda: None
    ) -> dict[str, DetailedEvaluation]:
        context = self._context
        new = [name for name in names if (step, name) not in self._known]
        for name in new:
            context.enter("evaluating", name)
            self._known[step, name] = evaluate(
                self._module,
                self._inputs.task,
                self._inputs.validation[name],
                context.world,
                batch_size=context.plan.evaluation_batch,
                precision=context.plan.precision,
                before_batch=before_batch,
                keep_outcomes=True,
            )
        found = {name: self._known[step, name] for name in names}
        if new:
            context.log.write(
                Evaluated(
                    step=step,
                    metrics={name: found[name].metrics for name in new},
                    samples={name: found[name].samples for name in new},
                    seconds=sum(found[name].seconds for name in new),
                )
            )
        return found
