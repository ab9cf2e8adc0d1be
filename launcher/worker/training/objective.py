"""Compute gradients from the batches of a step: of the task's loss, or of a method's loss on the global batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from launcher.adapt.methods.method import (
    BatchObservations,
    Method,
    ObservedLosses,
    StepBatch,
    StepInfo,
    TargetInference,
)
from launcher.engines.base import Engine
from launcher.engines.precision import autocast
from launcher.errors import RequestError
from launcher.models.parts.batch import Batch
from launcher.worker.rank.world import World


@dataclass(frozen=True)
class Step:
    """A step, as an objective sees it.

    sets: int64 [samples] the set of each sample of the global batch
    beat: called after each micro-batch
    """

    moment: StepInfo
    sets: NDArray[np.int64]
    beat: Callable[[], None]


class Objective(Protocol):
    """Computes the gradient of a step."""

    def begin(self, moment: StepInfo, before_batch: Callable[[], None]) -> str | None:
        """Called before a step, on all ranks alike; returns a note for the user.

        before_batch: called before each batch that this computes
        """

    def must_end(self) -> str | None:
        """Why training ends after this step, on all ranks alike; None if it continues."""

    def weights(self, batches: Sequence[Batch]) -> list[float]:
        """This rank's sums of weights; their sums over the ranks are the denominators of the losses."""

    def accumulate(self, batches: Sequence[Batch], weights: Sequence[float], step: Step) -> float:
        """Forward and backward of each micro-batch; returns this rank's part of the global batch's loss."""


class TaskObjective:
    """Minimises the task's loss: Σ weightᵢ·lossᵢ / Σ weightᵢ."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def begin(self, moment: StepInfo, before_batch: Callable[[], None]) -> str | None:
        """Nothing to do."""
        return None

    def must_end(self) -> str | None:
        """None: it never ends training."""
        return None

    def weights(self, batches: Sequence[Batch]) -> list[float]:
        """The sum of all samples' weights."""
        return [sum(batch.weight for batch in batches)]

    def accumulate(self, batches: Sequence[Batch], weights: Sequence[float], step: Step) -> float:
        """One pass."""
        total = 0.0
        weight = weights[0] or 1.0  # a global batch without any weight has the loss 0
        for number, batch in enumerate(batches):
            losses = self._engine.accumulate(batch, 1.0 / weight, last=number == len(batches) - 1)
            step.beat()
            total += float(losses.weighted.detach().sum(dtype=torch.float64))
        return total / weight


class MethodObjective:
    """Minimises a method's loss; in two passes if it observes, as explained in `launcher.adapt.methods.method`."""

    def __init__(
        self,
        method: Method,
        engine: Engine,
        world: World,
        precision: str,
        seed: int,
        target: Callable[[Callable[[], None]], TargetInference] | None,
    ) -> None:
        self._method, self._engine, self._world = method, engine, world
        self._precision, self._seed, self._target = precision, seed, target

    def begin(self, moment: StepInfo, before_batch: Callable[[], None]) -> str | None:
        """Call the method's `begin_epoch` before an epoch, and not again if a run resumes within one."""
        state, looks = self._method.state, type(self._method).begin_epoch is not Method.begin_epoch
        if self._target is None or not looks or state.get("epoch") == moment.epoch:
            return None
        found = self._method.begin_epoch(moment.epoch, self._target(before_batch))
        state["epoch"] = moment.epoch
        return found

    def must_end(self) -> str | None:
        """The method's reason, if it has collapsed."""
        return self._method.has_collapsed()

    def weights(self, batches: Sequence[Batch]) -> list[float]:
        """The sum of the weights of each term."""
        found = [self._method.weights(cast(StepBatch, batch)) for batch in batches]
        names = self._method.loss_terms
        for weights in found:
            if set(weights) != set(names):
                raise RequestError(
                    f"{type(self._method).__name__}.weights gives {', '.join(weights)}, and its loss_terms are "
                    f"{', '.join(names)}; each term needs both"
                )
        return [sum(float(weights[name].sum(dtype=torch.float64)) for weights in found) for name in names]

    def accumulate(self, batches: Sequence[Batch], weights: Sequence[float], step: Step) -> float:
        """One pass, or a pass to observe and a training pass."""
        own = [cast(StepBatch, batch) for batch in batches]
        coefficients = self._method.coefficients(step.moment)
        factors = {
            name: coefficients.get(name, 1.0) / (weight or 1.0)
            for name, weight in zip(self._method.loss_terms, weights, strict=True)
        }
        scales: dict[str, Tensor] = {}
        gradients: dict[str, Tensor] = {}
        total = 0.0
        if self._method.observes:
            found = self._look(own, step)
            scales = self._method.sample_factors(found)
            batch_loss = self._method.batch_loss(found)
            if batch_loss is not None:
                names = [name for name, value in found.values.items() if value.requires_grad]
                slopes = torch.autograd.grad(batch_loss, [found.values[name] for name in names], allow_unused=True)
                gradients = {name: slope for name, slope in zip(names, slopes, strict=True) if slope is not None}
                total += float(batch_loss.detach()) * self._world.is_first
        for number, batch in enumerate(own):
            ready = replace(
                batch,
                scales={
                    name: _of(batch, scales[name]) if name in scales else torch.full(batch.sets.shape, factor)
                    for name, factor in factors.items()
                },
                gradients={name: _of(batch, gradient) for name, gradient in gradients.items()},
            )
            self._seed_dropout(step.moment.step, number)
            losses = self._engine.accumulate(ready, 1.0, last=number == len(own) - 1)
            step.beat()
            total += float(losses.weighted.detach().sum(dtype=torch.float64))
        return total

    def _look(self, batches: Sequence[StepBatch], step: Step) -> BatchObservations:
        """Compute all micro-batches without gradients and gather the observations of all ranks."""
        samples, device = len(step.sets), self._world.device
        values: dict[str, Tensor] = {}
        weights = torch.zeros(samples, dtype=torch.float64)
        for number, batch in enumerate(batches):
            self._seed_dropout(step.moment.step, number)
            look = replace(batch, wanted=self._method.observes)
            with torch.no_grad(), autocast(device, self._precision):
                seen = cast(ObservedLosses, self._engine.module(look.to(device)))
            step.beat()
            rows = batch.places >= 0
            weights[batch.places[rows]] = batch.sample_weights[rows].double()
            for name, value in seen.observed.items():
                empty = torch.zeros((samples, *value.shape[1:]), dtype=torch.float64)
                values.setdefault(name, empty)[batch.places[rows]] = value.detach().cpu()[rows].double()
        # each sample is on one rank and zero on all others, so the sums are the values
        whole = {name: self._world.sum_over_data(value).requires_grad_() for name, value in values.items()}
        weights = self._world.sum_over_data(weights)
        return BatchObservations(whole, torch.from_numpy(step.sets), weights, step.moment)

    def _seed_dropout(self, step: int, number: int) -> None:
        """Seed the generator so that a micro-batch has the same dropout masks in both passes."""
        state = np.random.SeedSequence([self._seed, step, self._world.data_rank, number]).generate_state(1, np.uint64)
        torch.manual_seed(int(state[0] >> np.uint64(1)))


def _of(batch: StepBatch, values: Tensor) -> Tensor:
    """The batch's rows of values of the whole global batch, in fp32; zero for filler."""
    rows = values.detach()[batch.places.clamp(min=0)].float()
    return rows * (batch.places >= 0).view(-1, *[1] * (rows.ndim - 1))
