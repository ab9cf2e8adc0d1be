"""Check that a sample's outputs do not depend on the other samples of its batch.

In some models padding affects real tokens (a Fourier transform, a convolution), or the longest sample of a batch
decides how they compute. So before the first step a few samples of different lengths are computed alone and in pairs,
in evaluation mode, by the prepared module itself: a copy would not show the effects of the weights and the engine. If
padding makes a difference, each batch has samples of one length only. If other samples of the same length make a
difference, or earlier batches, the model is refused.

Each sample's loss is compared, and the hidden states of its own tokens if the model's body returns them: these show a
difference even if the head is untrained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from launcher.data.pool import Pool
from launcher.data.prepared import Prepared
from launcher.engines.precision import AUTOCAST, autocast
from launcher.errors import ModelError
from launcher.models.parts.batch import Batch, Losses
from launcher.models.tasks.base import Task, TaskModule
from launcher.worker.evaluation.pass_over import evaluating
from launcher.worker.rank.world import World

ROUNDING = 1e-4
"""Relative tolerance between two batches in fp32."""
COARSE_ROUNDING = 0.05
"""The same for weights in 16 bits or less."""

TRIED = 4
"""Maximum number of samples of different lengths that are tried."""


@dataclass(frozen=True)
class Numbers:
    """A model's outputs for one sample.

    loss: weighted
    hidden: [tokens, width] last hidden states; None if the body does not return them per token
    """

    loss: float
    hidden: Tensor | None

    def differ(self, other: Numbers, rounding: float) -> bool:
        """Whether they differ by more than rounding."""
        if abs(self.loss - other.loss) > rounding * max(abs(other.loss), 1.0):
            return True
        if self.hidden is None or other.hidden is None or self.hidden.shape != other.hidden.shape:
            return False
        apart = (self.hidden - other.hidden).norm(dim=-1)
        return bool((apart > rounding * other.hidden.norm(dim=-1).clamp(min=1e-3)).any())


def choose_batches(
    module: nn.Module,
    task: Task,
    sets: Mapping[str, Prepared],
    world: World,
    say: Callable[[str], object],
    precision: str = "fp32",
) -> None:
    """Set `task.one_length` if padding changes the model's outputs.

    sets: all samples of the run; some from the shortest to the longest are tried
    say: called with a note if padding changes the outputs
    precision: compute precision
    All ranks compute the same and agree. Raises ModelError if a sample's outputs cannot be made reproducible.
    """
    probe = _Probe(module, task, Pool(sets), world, precision)
    remembers, pads, mixes, leaks = (world.sum([float(found) for found in probe.findings()]) > 0).tolist()
    name = type(_task_module(module).model).__name__
    if remembers:
        raise ModelError(
            f"{name} gives the same sample different scores each time it is computed, so results would "
            "depend on the order of batches; use another model"
        )
    if mixes:
        raise ModelError(
            f"the scores that {name} gives a sample change with the other samples of its batch, so "
            "results would depend on the batch size; use another model"
        )
    if leaks:
        raise ModelError(f"{name} gives packed samples different scores than unpacked ones; set train.packing: false")
    if not pads or task.one_length:
        return
    task.one_length = True
    say(
        f"padding changes the scores of {name}, so each batch holds samples of one length without "
        "padding; this needs more and smaller batches"
    )


class _Probe:
    """Computes a few samples alone and in one batch."""

    def __init__(self, module: nn.Module, task: Task, pool: Pool, world: World, precision: str) -> None:
        self._module, self._task, self._pool, self._world, self._precision = module, task, pool, world, precision
        self._rounding = COARSE_ROUNDING if precision in AUTOCAST or _is_coarse(module) else ROUNDING

    def findings(self) -> tuple[bool, bool, bool, bool]:
        """Whether outputs depend on earlier batches, on padding, on other samples, on other packed samples."""
        places, twins = _of_many_lengths(self._pool.lengths), _twins(self._pool.lengths)
        with evaluating(self._module), _exact_multiplication():
            alone = {place: self._numbers([place])[0] for place in [*places, *twins]}
            # every rank computes each, since a sharded model's forward pass is a collective
            padded = [self._differ([place, places[-1]], alone) for place in places[:-1]]
            mixes = bool(twins) and self._differ(twins, alone)
            again = [self._differ([place], alone) for place in (places[0], places[-1])]
            leaks = self._task.packs and self._leaks(places[0], places[-1], alone)
        if self._rounding == COARSE_ROUNDING:  # too coarse to refuse a model
            return False, any(padded), False, False
        return any(again), any(padded), mixes, leaks

    def _differ(self, places: Sequence[int], alone: Mapping[int, Numbers]) -> bool:
        """Whether samples in one batch have other outputs than alone."""
        found = zip(places, self._numbers(places), strict=True)
        return any(numbers.differ(alone[place], self._rounding) for place, numbers in found)

    def _numbers(self, places: Sequence[int]) -> list[Numbers]:
        batch = self._task.collate_padded(self._pool[places], places).to(self._world.device)
        losses, states = self._computed(batch)
        mask = batch.inputs.get("attention_mask")
        if states is None or mask is None or states.shape[:2] != mask.shape or len(states) != len(losses):
            return [Numbers(loss, None) for loss in losses]
        return [
            Numbers(loss, state[row.bool()].float().cpu())
            for loss, state, row in zip(losses, states, mask, strict=True)
        ]

    def _computed(self, batch: Batch) -> tuple[list[float], Tensor | None]:
        """The loss of each row, and the body's last hidden states [rows, length, width]."""
        states: list[Tensor] = []

        def keep(_: nn.Module, __: object, output: object) -> None:
            last = getattr(output, "last_hidden_state", None)
            if isinstance(last, Tensor):
                states.append(last.detach())

        model = _task_module(self._module).model
        handle = getattr(model, "base_model", model).register_forward_hook(keep)
        self._world.heartbeat.beat()
        try:
            with autocast(self._world.device, self._precision):
                losses: Losses = self._module(batch)
        except IndexError as error:
            raise ModelError(
                f"{type(model).__name__} cannot compute a sample of {batch.tokens // batch.samples} tokens: {error}; "
                "lower train.max_length, or use a model and a tokenizer that belong together"
            ) from error
        finally:
            handle.remove()
        return losses.weighted.double().tolist(), states[-1] if states and states[-1].ndim == 3 else None

    def _leaks(self, short: int, long: int, alone: Mapping[int, Numbers]) -> bool:
        """Pack a row with copies of the long sample, then the short one, and compare with the samples alone."""
        lengths = self._pool.lengths
        longs, rest = divmod(self._task.train.max_length, int(lengths[long]))
        shorts = 1 + rest // int(lengths[short])
        places = [long] * longs + [short] * shorts
        batch = self._task.collate(self._pool[places], places, 0).to(self._world.device)
        packed = Numbers(sum(self._computed(batch)[0]), None)
        apart = Numbers(longs * alone[long].loss + shorts * alone[short].loss, None)
        return packed.differ(apart, self._rounding)


def _of_many_lengths(lengths: NDArray[np.int32]) -> list[int]:
    """At most `TRIED` samples from the shortest to the longest: some models switch algorithms by length."""
    _, places = np.unique(lengths, return_index=True)
    chosen = np.unique(np.linspace(0, len(places) - 1, min(TRIED, len(places))).round().astype(np.int64))
    return [int(place) for place in places[chosen]]


def _twins(lengths: NDArray[np.int32]) -> list[int]:
    """Two samples of the same length, the shortest such; none if all lengths differ."""
    found, counts = np.unique(lengths, return_counts=True)
    several = found[counts > 1]
    return np.flatnonzero(lengths == several[0])[:2].tolist() if len(several) else []


def _task_module(module: nn.Module) -> TaskModule:
    return next(part for part in module.modules() if isinstance(part, TaskModule))


def _is_coarse(module: nn.Module) -> bool:
    """Whether some weights have less than 32 bits."""
    return any(parameter.element_size() < torch.float32.itemsize for parameter in module.parameters())


@contextmanager
def _exact_multiplication() -> Iterator[None]:
    """Disable tf32, also if the job allows it."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
