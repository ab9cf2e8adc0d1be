"""Checkpoint selection for a target without labels: an importance-weighted metric, and a check for collapse.

The weights are computed once, from features of the pretrained model, so that all checkpoints are evaluated by the same
ones. They are saved with the run, since a resumed run no longer has that model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import nan
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from launcher.data.pool import Pool
from launcher.data.prepared import Prepared
from launcher.errors import ModelError, RequestError
from launcher.files import fault_of_sealed, partial_of, seal
from launcher.job.schema import Job
from launcher.measure.compare.per_sample_results import Values
from launcher.measure.compare.selection import importance_weights, lost_classes, weighted_mean
from launcher.models.parts.batch import Batch
from launcher.models.parts.features import pooled
from launcher.models.tasks.base import TaskModule
from launcher.run.events import Note
from launcher.worker.data.inputs import Inputs
from launcher.worker.evaluation.evaluate import DetailedEvaluation
from launcher.worker.evaluation.pass_over import Computed, Indices, PerSampleRows, Result, pass_over
from launcher.worker.rank.run_context import RunContext

NEW, KEPT = "new", "kept"
MOST = 1000
"""Maximum number of samples per domain for the domain classifier, and of target samples predicted at each check."""


def deciding_value_of(
    found: DetailedEvaluation,
    job: Job,
    selector: CheckpointSelector | None,
    before_batch: Callable[[], None] = lambda: None,
) -> float:
    """The deciding metric, or its estimate on the target if a selector is given.

    before_batch: called equally often on all ranks; an exception in it ends a selector's passes
    """
    return found.metrics[job.validation.metric] if selector is None else selector.value(found.outcomes, before_batch)


class CheckpointSelector:
    """Estimates the metric on the target from results on labelled source samples. All ranks call it alike.

    remembered: weights of the deciding set's samples, by the set's name, shared by all selectors of this attempt; the
        first one fills it, on rank 0
    Raises RequestError if a resumed run has lost the weights, which need the pretrained model.
    """

    def __init__(self, context: RunContext, inputs: Inputs, module: nn.Module, remembered: dict[str, Values]) -> None:
        assert inputs.target is not None
        self._context, self._inputs, self._module = context, inputs, module
        self._target = inputs.target
        name = context.job.deciding_set
        assert name is not None
        self._name, self._remembered = name, remembered
        state = self._state() if context.world.is_first else None
        state = context.world.from_first(state) or ""
        if state == NEW:
            self._weigh()
        elif state not in ("", KEPT):
            raise RequestError(state, 0)
        if context.world.is_first and name not in remembered:
            remembered[name] = np.load(context.folder.selection_file)
        self._kept = remembered.get(name)

    @classmethod
    def of(
        cls, context: RunContext, inputs: Inputs, module: nn.Module, remembered: dict[str, Values]
    ) -> CheckpointSelector | None:
        """The selector for a target without labels; None if labelled samples select the checkpoint."""
        return cls(context, inputs, module, remembered) if context.job.selects_for_target else None

    def _state(self) -> str:
        """Whether the weights are stored or must be computed; else what is wrong."""
        file = self._context.folder.selection_file
        if self._name in self._remembered:
            return KEPT
        fault = fault_of_sealed(file) if file.exists() else f"{file.name} is missing"
        if fault is None:
            return KEPT
        if self._context.checkpoint is None:
            return NEW
        return (
            f"{file} is damaged: {fault}; it was computed with the pretrained model, which a resumed run "
            "no longer has; restore the file, or start a new run with --resume never"
        )

    def _weigh(self) -> None:
        """Compute and store the samples' weights from features of the pretrained model."""
        file, weights = self._context.folder.selection_file, self._weights()
        if weights is not None:
            self._context.fence.check()
            partial = partial_of(file)
            with partial.open("wb") as opened:
                np.save(opened, weights)
            partial.replace(file)
            seal(file)

    def value(self, outcomes: Values | None, before_batch: Callable[[], None]) -> float:
        """The estimated metric on the target, on every rank; NaN if the model has collapsed there.

        outcomes: per-sample results on the deciding set, on rank 0
        before_batch: called equally often on all ranks
        """
        task, metric = self._inputs.task, self._context.job.validation.metric
        answered = self._answers(before_batch)
        lost = lost_classes(answered, np.asarray(task.counts, dtype=np.float64))
        value = 0.0
        if self._context.world.is_first:
            assert outcomes is not None
            assert self._kept is not None
            of_each = outcomes[:, 0] if metric == "loss" else task.right(outcomes).astype(np.float64)
            found = weighted_mean(of_each, self._kept)
            value = found.value
            self._context.log.write(
                Note(
                    text=f"{metric} of {self._name}, importance-weighted for the target: {value:.4f} ± "
                    f"{found.error:.4f} (effective sample size {found.worth:.0f} of {len(of_each)})"
                )
            )
        if lost:
            names = ", ".join(task.labels[number] for number in lost)
            self._context.log.write(
                Note(text=f"collapsed on the target, where it hardly ever predicts {names}; not selected")
            )
            return nan
        return self._context.world.sum([value]).item()

    def _weights(self) -> Values | None:
        """The weight of each sample of the deciding set, on rank 0."""
        self._context.enter("extracting features")
        inputs, seed = self._inputs, self._context.job.train.seed
        held = inputs.validation[self._name]
        source, target = (self._features(data, _some(data, seed)) for data in (inputs.train, self._target))
        features = self._features(held, np.arange(len(held)))
        if source is None or target is None or features is None:
            return None
        return importance_weights(source, target, features, seed)

    def _features(self, data: Prepared | Pool, chosen: Indices) -> Values | None:
        """[chosen, size] mean-pooled last hidden states, on rank 0."""
        rows = PerSampleRows(self._context.world, len(chosen))
        with _hidden_states(self._module) as states:

            def forward(batch: Batch) -> Tensor:
                states.clear()
                self._module(batch)
                return states.pop()

            for computed in self._pass_over(data, chosen, forward, with_filler=True):
                mask = computed.batch.inputs.get("attention_mask")
                rows.add(computed.places, pooled(computed.result.double(), mask))
        return rows.on_first()

    def _answers(self, before_batch: Callable[[], None]) -> Values:
        """[classes] number of predictions of each class in the target, on every rank."""
        counts = torch.zeros(len(self._inputs.task.labels), dtype=torch.float64)
        chosen = _some(self._target, self._context.job.train.seed)
        for computed in self._pass_over(self._target, chosen, self._module, before_batch=before_batch):
            counts += torch.bincount(computed.result.outputs.argmax(-1).cpu(), minlength=len(counts))
        answers: Values = self._context.world.sum_over_data(counts).numpy()
        return answers

    def _pass_over(
        self, data: Prepared | Pool, chosen: Indices, forward: Callable[[Batch], Result], **options: Any
    ) -> Iterator[Computed[Result]]:
        """A pass with the settings of evaluation."""
        context, plan = self._context, self._context.plan
        return pass_over(
            data,
            self._inputs.task,
            self._module,
            context.world,
            forward,
            batch_size=plan.evaluation_batch,
            precision=plan.precision,
            chosen=chosen,
            **options,
        )


def selector_of(job: Job) -> str:
    """What selected the checkpoint, as text."""
    if job.checkpoint.result == "last":
        return "being the last"
    metric, name = job.validation.metric, job.deciding_set
    if job.selects_for_target:
        return f"importance-weighted {metric} of {name}, an estimate for the unlabelled target"
    return f"{metric} on {name}"


def _some(data: Prepared | Pool, seed: int) -> Indices:
    """Positions of at most `MOST` random samples, the same ones on every rank."""
    return np.sort(np.random.default_rng(seed).permutation(len(data))[:MOST])


@contextmanager
def _hidden_states(module: nn.Module) -> Iterator[list[Tensor]]:
    """The last hidden states of the model's body at each forward, under any engine.

    Raises ModelError for a model without hidden states.
    """
    inner = next(part for part in module.modules() if isinstance(part, TaskModule)).model
    body = inner.base_model
    states: list[Tensor] = []

    def keep(_: nn.Module, __: object, output: object) -> None:
        last = getattr(output, "last_hidden_state", None)
        if not isinstance(last, Tensor):
            raise ModelError(
                f"{type(body).__name__} has no last hidden state to classify domains with; use "
                "validation.selector: labelled"
            )
        states.append(last.detach())

    handle = body.register_forward_hook(keep)
    try:
        yield states
    finally:
        handle.remove()
