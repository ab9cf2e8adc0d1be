"""How much the weights of a step count in their average: a function of the step alone.

The averages are kept by the engines, shard by shard (engines/weight_copies.py).
"""

from __future__ import annotations

from launcher.job.sections.adapting import Ema, Swa


def weight_after(spec: Ema | Swa, step: int, total_steps: int, steps_per_epoch: int) -> float:
    """The weight w in average ← (1 − w)·average + w·weights, after `step` optimizer steps (1 is the first).

    The moving average begins with the weights before the first step, and forgets them quickly: its decay is at most
    (1 + step) / (10 + step), without which a short run would end near its start. The mean (SWA) counts all its members
    alike.
    """
    if isinstance(spec, Ema):
        return 1 - min(spec.decay, (1 + step) / (10 + step))
    every = steps_per_epoch if spec.every == "epoch" else spec.every
    taken, rest = divmod(step - first_step(spec, total_steps, steps_per_epoch), every)
    return 1 / (taken + 1) if taken >= 0 and rest == 0 else 0.0


def first_step(spec: Ema | Swa, total_steps: int, steps_per_epoch: int) -> int:
    """The step from which on the average stands for the weights; for SWA of epochs, the first end of one."""
    if isinstance(spec, Ema):
        return 0
    first = max(1, round(spec.start * total_steps))
    return -(-first // steps_per_epoch) * steps_per_epoch if spec.every == "epoch" else first
