"""An average of the weights over the steps: an exponential moving average (EMA), or a mean over some steps (SWA)."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from launcher.adapt.options.weight_copies import Copies, Kept, move
from launcher.engines.base import Engine, LocalTensor
from launcher.job.sections.adapting import Ema, Swa

SLOT = "average"
"""Its slot among the moments in a checkpoint."""


class Average:
    """The average, initialised with the initial weights, before any checkpoint is loaded.

    steps: number of steps of the whole run
    """

    def __init__(self, spec: Ema | Swa, engine: Engine, steps: int, steps_per_epoch: int) -> None:
        self._spec, self._engine, self._steps, self._per_epoch = spec, engine, steps, steps_per_epoch
        self._copies = Copies(engine.local_parameters())

    def stands_after(self, step: int) -> bool:
        """Whether the average is used instead of the weights after `step` steps."""
        return step >= first_step(self._spec, self._steps, self._per_epoch)

    @torch.no_grad()
    def take_in(self, step: int) -> None:
        """Add the weights after `step` steps to the average."""
        weight = weight_after(self._spec, step, self._steps, self._per_epoch)
        if weight:
            stepped = self._copies.parameters
            move(self._copies.of(stepped), [parameter.tensor for parameter in stepped], weight)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange weights and average; a second call restores both bit for bit."""
        for parameter in self._copies.parameters:
            tensor, average = parameter.tensor, self._copies[parameter]
            held = tensor.clone()
            tensor.copy_(average)
            average.copy_(held)
        self._engine.refresh()

    def saved(self) -> Kept:
        """The state for a checkpoint."""
        return self._copies.saved(SLOT, self._copies.parameters)

    def load(self, kept: Mapping[str, Mapping[str, LocalTensor]]) -> None:
        """Load a checkpoint's state; the average of a newly unfrozen parameter is the weight that was just loaded."""
        for parameter in self._copies.parameters:
            self._copies.take(parameter)
        self._copies.load(SLOT, kept)


def weight_after(spec: Ema | Swa, step: int, total_steps: int, steps_per_epoch: int) -> float:
    """The weight w in average ← (1 − w)·average + w·weights, after `step` optimizer steps (1 is the first).

    The moving average is initialised with the weights before the first step, and its decay is at most
    (1 + step) / (10 + step), without which a short run would end near its start. The mean (SWA) has equal weights.
    """
    if isinstance(spec, Ema):
        return 1 - min(spec.decay, (1 + step) / (10 + step))
    every = steps_per_epoch if spec.every == "epoch" else spec.every
    taken, rest = divmod(step - first_step(spec, total_steps, steps_per_epoch), every)
    return 1 / (taken + 1) if taken >= 0 and rest == 0 else 0.0


def first_step(spec: Ema | Swa, total_steps: int, steps_per_epoch: int) -> int:
    """The step from which the average is used instead of the weights; for SWA over epochs, an epoch's end."""
    if isinstance(spec, Ema):
        return 0
    first = max(1, round(spec.start * total_steps))
    return -(-first // steps_per_epoch) * steps_per_epoch if spec.every == "epoch" else first
