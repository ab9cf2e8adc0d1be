"""Whether what shares a batch with a sample changes the sample's numbers, which it must not.

Some models let real tokens see padding (a Fourier transform, a convolution), or decide by the longest sample of a batch
how they compute. So before the first step a short and a long sample are computed alone and together, by the module that
will compute everything, in evaluation mode. Where padding makes a difference, batches hold samples of one length each.
Where even neighbours of the same length do, or what was computed before, no batch is right, and the model is refused.

What is compared is each sample's loss and, as far as the model's body gives one for each token, the hidden states of
its own tokens: there the difference is plain also where the head has learned nothing yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from launcher.data.pool import Pool
from launcher.data.prepared import Prepared
from launcher.engines.single import AUTOCAST, autocast
from launcher.errors import ModelError
from launcher.models.base import Task, TaskModule
from launcher.models.batch import Batch, Losses
from launcher.worker.evaluating import evaluating
from launcher.worker.world import World

ROUNDING = 1e-4
"""By how much of itself a number may differ between two batches in fp32."""
COARSE_ROUNDING = 0.05
"""The same where weights are in 16 bits or less."""


@dataclass(frozen=True)
class Numbers:
    """What a model makes of one sample.

    loss: weighted
    hidden: [tokens, width] last hidden states; None where the body gives none for each token
    """

    loss: float
    hidden: Tensor | None


def choose_batches(
    module: nn.Module, task: Task, sets: Mapping[str, Prepared], world: World, precision: str = "fp32"
) -> str:
    """Set `task.one_length` where padding changes the model's numbers; what to tell the user then, else nothing.

    sets: all samples that the model will see, of which the shortest and the longest are tried
    precision: what weights are in while they compute
    All ranks compute the same and agree. Raises ModelError where no batches give a sample the same numbers always.
    """
    probe = _Probe(module, task, Pool(sets), world, precision)
    remembers, pads, mixes, leaks = (world.sum([float(found) for found in probe.findings()]) > 0).tolist()
    name = type(_task_module(module).model).__name__
    if remembers:
        raise ModelError(
            f"{name} gives the same sample other scores when it is computed again, so results would depend on the "
            "order of batches; use another model"
        )
    if mixes:
        raise ModelError(
            f"{name} gives a sample other scores with another sample of the same length in its batch, so results would "
            "depend on the batch size; use another model"
        )
    if leaks:
        raise ModelError(f"{name} gives samples packed into a row other scores than alone; set train.packing: false")
    if not pads or task.one_length:
        return ""
    task.one_length = True
    return (
        f"padding changes the scores of {name}, so each batch holds samples of one length, and nothing is padded; "
        "this takes more and smaller batches"
    )


class _Probe:
    """Computes a few samples alone and together."""

    def __init__(self, module: nn.Module, task: Task, pool: Pool, world: World, precision: str) -> None:
        self._module, self._task, self._pool, self._world, self._precision = module, task, pool, world, precision
        self._rounding = COARSE_ROUNDING if precision in AUTOCAST or _is_coarse(module) else ROUNDING

    def findings(self) -> tuple[bool, bool, bool, bool]:
        """Whether the model remembers earlier batches, padding is seen, neighbours are seen, packed rows leak."""
        lengths = self._pool.lengths
        short, long = int(lengths.argmin()), int(lengths.argmax())
        with evaluating(self._module), _exact_multiplication():
            (long_alone,), (short_alone,) = self._numbers([long]), self._numbers([short])
            pads = mixes = False
            if lengths[short] < lengths[long]:
                together = self._numbers([short, long])
                pads = self._differ(together[0], short_alone) or self._differ(together[1], long_alone)
            twins = _twins(lengths)
            if twins:
                (alone,) = self._numbers(twins[:1])
                mixes = self._differ(self._numbers(twins)[0], alone)
            remembers = self._differ(self._numbers([long])[0], long_alone)
            leaks = self._task.packs and self._leaks(short, long, short_alone, long_alone)
        if self._rounding == COARSE_ROUNDING:  # too coarse to refuse a model for
            return False, pads, False, False
        return remembers, pads, mixes, leaks

    def _numbers(self, places: Sequence[int]) -> list[Numbers]:
        batch = self._task.collate_padded(self._pool[places], places).to(self._world.device)
        losses, states = self._computed(batch)
        mask = batch.inputs.get("attention_mask")
        if states is None or mask is None or states.shape[:2] != mask.shape:
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
        self._world.pulse.beat()
        try:
            with autocast(self._world.device, self._precision):
                losses: Losses = self._module(batch)
        finally:
            handle.remove()
        return losses.weighted.double().tolist(), states[-1] if states and states[-1].ndim == 3 else None

    def _leaks(self, short: int, long: int, short_alone: Numbers, long_alone: Numbers) -> bool:
        """Fill a row with the long sample as often as it fits, then with the short one, and begin another row."""
        room = self._task.train.max_length
        longs, rest = divmod(room, int(self._pool.lengths[long]))
        shorts = 1 + rest // int(self._pool.lengths[short])
        places = [long] * longs + [short] * shorts
        batch = self._task.collate(self._pool[places], places, 0).to(self._world.device)
        losses, _ = self._computed(batch)
        return self._differ(
            Numbers(sum(losses), None), Numbers(longs * long_alone.loss + shorts * short_alone.loss, None)
        )

    def _differ(self, one: Numbers, other: Numbers) -> bool:
        if abs(one.loss - other.loss) > self._rounding * max(abs(other.loss), 1.0):
            return True
        if one.hidden is None or other.hidden is None or one.hidden.shape != other.hidden.shape:
            return False
        apart = (one.hidden - other.hidden).norm(dim=-1)
        return bool((apart > self._rounding * other.hidden.norm(dim=-1).clamp(min=1e-3)).any())


def _twins(lengths: np.ndarray) -> list[int]:
    """Two samples of one length, the shortest that two have; none where all lengths differ."""
    found, counts = np.unique(lengths, return_counts=True)
    several = found[counts > 1]
    return np.flatnonzero(lengths == several[0])[:2].tolist() if len(several) else []


def _task_module(module: nn.Module) -> TaskModule:
    return next(part for part in module.modules() if isinstance(part, TaskModule))


def _is_coarse(module: nn.Module) -> bool:
    """Whether some weights are kept in less than 32 bits."""
    return any(parameter.element_size() < torch.float32.itemsize for parameter in module.parameters())


@contextmanager
def _exact_multiplication() -> Iterator[None]:
    """Inside, GPUs multiply in fp32 as it is, also where the job allows tf32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
