"""The settings of the methods that are compared with each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from launcher.job.sections.methods import SECTIONS

EPOCHS = 5
SOURCE_ONLY, ORACLE = "source only", "oracle"
METHODS = ("coral", "mmd", "dann", "cdan", "mcc", "self-training", "shot", "tent")
"""That learn from cached features of one source and the target."""
GRID: dict[str, dict[str, tuple[float, ...]]] = {
    "dann": {"weight": (1.0, 0.3, 0.1, 0.03), "discriminator_lr_factor": (1.0, 10.0)},
    "cdan": {"weight": (1.0, 0.3, 0.1, 0.03), "discriminator_lr_factor": (1.0, 10.0)},
    "coral": {"weight": (1.0, 0.3)},
    "mmd": {"weight": (1.0,)},
    "mcc": {"weight": (2.0, 1.0)},
    "self-training": {"weight": (1.0,)},
    "shot": {"diversity": (1.0,)},
    "tent": {"lr_factor": (1.0, 0.3), "diversity": (0.0, 1.0)},
}
"""Each option's values; all combinations are tried."""
OTHER_EPOCHS = {"tent": (1, 15)}
"""Beside `EPOCHS`, with the defaults."""


@dataclass(frozen=True)
class Setting:
    """A method with some of its options, the others as they are by default; or a name that is no method's."""

    method: str
    options: tuple[tuple[str, float], ...] = ()
    epochs: int = EPOCHS

    def __str__(self) -> str:
        options = ", ".join(f"{name} {value:g}" for name, value in self.options)
        epochs = "" if self.epochs == EPOCHS else f", {self.epochs} epoch{'s' * (self.epochs > 1)}"
        return f"{self.method}{': ' * bool(options)}{options}{epochs}"

    @property
    def adapt(self) -> dict[str, Any]:
        """The section of the job file."""
        return {"method": self.method, **dict(self.options)}

    @property
    def source_epochs(self) -> int:
        """Of the model of the source alone that it is compared with; a source-free method begins with that model."""
        return EPOCHS if SECTIONS[self.method].target == "alone" else self.epochs


def by_default(method: str, epochs: int = EPOCHS) -> Setting:
    """The method as a job has it that says nothing of the options in `GRID`."""
    options = ((name, SECTIONS[method].model_fields[name].default) for name in GRID.get(method, ()))
    return Setting(method, tuple(options), epochs)


def all_settings() -> Iterator[Setting]:
    """The whole sweep."""
    for method, options in GRID.items():
        combined = [Setting(method, tuple(zip(options, values, strict=True))) for values in product(*options.values())]
        yield from dict.fromkeys([by_default(method), *combined])
        yield from (by_default(method, epochs) for epochs in OTHER_EPOCHS.get(method, ()))
