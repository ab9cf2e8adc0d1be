"""Operations on the weights in addition to the optimizer's steps, the same under every engine."""

from __future__ import annotations

from launcher.adapt.options import averaging, start
from launcher.adapt.options.averaging import Average
from launcher.adapt.options.start import Start
from launcher.engines.base import Engine, StateDict
from launcher.job.sections.methods import Adapt

SLOTS = (averaging.SLOT, start.SLOT)


class WeightOptions:
    """Weight averaging, L2-SP and interpolation, as the job requests.

    Made right after the engine was prepared, before any checkpoint is loaded.
    steps: number of steps of the whole run
    interpolates: whether this stage of the run keeps the initial weights for interpolation
    """

    def __init__(self, adapt: Adapt, engine: Engine, steps: int, steps_per_epoch: int, *, interpolates: bool) -> None:
        self._engine, self._strength = engine, adapt.l2_sp
        self._average = None if adapt.average is None else Average(adapt.average, engine, steps, steps_per_epoch)
        self._start = Start(engine, interpolates=interpolates) if adapt.l2_sp or interpolates else None
        self._options = [option for option in (self._average, self._start) if option is not None]

    def before_update(self) -> None:
        """Apply L2-SP; the engine calls this right before it updates the weights."""
        if self._start is not None and self._strength:
            self._start.pull(self._strength)

    def after_step(self, step: int) -> None:
        """Update the average with the weights after `step` steps."""
        if self._average is not None:
            self._average.take_in(step)

    def average_stands(self, step: int) -> bool:
        """Whether an average would be the result after `step` steps."""
        return self._average is not None and self._average.stands_after(step)

    def swap_result(self, step: int) -> None:
        """Exchange the weights with those of the result after `step` steps; a second call restores both.

        The result may be an average that the job requests, or the optimizer's own average.
        """
        if self._average is None:
            self._engine.swap_result()
        elif self._average.stands_after(step):
            self._average.swap()

    def mix(self, share: float) -> None:
        """Set the weights to (1 − share)·start + share·end; end are the weights at the first call."""
        assert self._start is not None
        self._start.mix(share)

    def state(self) -> StateDict:
        """The engine's state with the options' copies, for a checkpoint."""
        state = self._engine.state()
        moments = {name: dict(slots) for name, slots in state["optimizer"].items()}
        for option in self._options:
            for name, kept in option.saved().items():
                moments.setdefault(name, {}).update(kept)
        return {**state, "optimizer": moments}

    def load(self, state: StateDict) -> None:
        """Load a checkpoint: the engine's weights and moments, then the options' copies."""
        moments = {
            name: {slot: held for slot, held in slots.items() if slot not in SLOTS}
            for name, slots in state["optimizer"].items()
        }
        self._engine.load({**state, "optimizer": moments})
        for option in self._options:
            option.load(state["optimizer"])
