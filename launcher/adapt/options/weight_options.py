"""What a job asks to be done with the weights beside the optimizer's steps, the same under every engine."""

from __future__ import annotations

from launcher.adapt.options import averaging, start
from launcher.adapt.options.averaging import Average
from launcher.adapt.options.start import Start
from launcher.engines.base import Engine, StateDict
from launcher.job.sections.methods import Adapt

SLOTS = (averaging.SLOT, start.SLOT)


class WeightOptions:
    """An average, a pull to the start, an interpolation with it: each where the job asks for it.

    Made right after the engine was prepared, before any checkpoint is loaded.
    steps: of the whole run
    interpolates: whether this stage of the run keeps the start that the end is to be mixed with
    """

    def __init__(self, adapt: Adapt, engine: Engine, steps: int, steps_per_epoch: int, *, interpolates: bool) -> None:
        self._engine, self._strength = engine, adapt.l2_sp
        self._average = None if adapt.average is None else Average(adapt.average, engine, steps, steps_per_epoch)
        self._start = Start(engine, interpolates=interpolates) if adapt.l2_sp or interpolates else None
        self._options = [option for option in (self._average, self._start) if option is not None]

    def before_update(self) -> None:
        """Called by the engine right before it updates the weights."""
        if self._start is not None and self._strength:
            self._start.pull(self._strength)

    def after_step(self, step: int) -> None:
        """Take the weights after so many steps into account."""
        if self._average is not None:
            self._average.take_in(step)

    def average_stands(self, step: int) -> bool:
        """Whether an average would be the result after so many steps."""
        return self._average is not None and self._average.stands_after(step)

    def swap_result(self, step: int) -> None:
        """Exchange the weights with those that would be the result after so many steps; a second time puts both back.

        Such are an average that the job asks for, and what the optimizer itself averages.
        """
        if self._average is None:
            self._engine.swap_result()
        elif self._average.stands_after(step):
            self._average.swap()

    def mix(self, share: float) -> None:
        """Go to (1 − share)·start + share·end; the end is where the weights were at the first call."""
        assert self._start is not None
        self._start.mix(share)

    def state(self) -> StateDict:
        """The engine's state with what the options keep, as a checkpoint holds it."""
        state = self._engine.state()
        moments = {name: dict(slots) for name, slots in state["optimizer"].items()}
        for option in self._options:
            for name, kept in option.saved().items():
                moments.setdefault(name, {}).update(kept)
        return {**state, "optimizer": moments}

    def load(self, state: StateDict) -> None:
        """Take over a checkpoint: the engine its weights and moments, then the options what they keep."""
        moments = {
            name: {slot: held for slot, held in slots.items() if slot not in SLOTS}
            for name, slots in state["optimizer"].items()
        }
        self._engine.load({**state, "optimizer": moments})
        for option in self._options:
            option.load(state["optimizer"])
