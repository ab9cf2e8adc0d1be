"""What the methods of adapting gained where they were measured, so that a plan can say which of them have lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from launcher.job.adapting import Adapting
from launcher.job.schema import Job

PAGE = "docs/adaptation.md"


@dataclass(frozen=True)
class Measured:
    """A method's gain over the source alone, as `PAGE` has it.

    gain: points of accuracy on the target, the mean over the cases
    low, high: ends of its 95 % interval
    won, cases: in how many of them it gained; what they are
    settings: options that are not the default; they stand for all values that are further from it, too
    """

    gain: float
    low: float
    high: float
    won: int
    cases: int
    of: str = "pairs of domains"
    settings: Mapping[str, float] = field(default_factory=dict)

    def applies_to(self, adapt: Adapting) -> bool:
        """Whether a job is as harsh as these settings, or harsher."""
        return all(self._reaches(adapt, option, value) for option, value in self.settings.items())

    def _reaches(self, adapt: Adapting, option: str, value: float) -> bool:
        default = type(adapt).model_fields[option].default
        mine: float = getattr(adapt, option)
        return mine >= value if value > default else mine <= value


MEASURED: Mapping[str, tuple[Measured, ...]] = {
    "mcc": (Measured(2.2, 1.2, 3.4, 11, 12),),
    "self-training": (Measured(2.5, 1.7, 3.4, 12, 12),),
    "mmd": (Measured(1.6, 0.8, 2.5, 11, 12),),
    "shot": (Measured(1.4, 1.0, 1.8, 12, 12),),
    "coral": (Measured(1.9, 1.0, 3.0, 11, 12),),
    "tent": (
        Measured(0.7, 0.2, 1.2, 8, 12),
        Measured(-9.6, -11.2, -7.1, 1, 12, settings={"diversity": 0.0}),
    ),
    "dann": (
        Measured(1.5, 0.2, 2.8, 7, 12),
        Measured(-1.4, -4.0, 1.0, 5, 12, settings={"weight": 0.3}),
        Measured(-9.6, -15.0, -4.0, 1, 12, settings={"weight": 1.0}),
    ),
    "cdan": (
        Measured(0.2, -0.9, 1.2, 7, 12),
        Measured(-0.6, -2.0, 1.0, 7, 12, settings={"weight": 0.3}),
        Measured(-9.1, -15.0, -4.0, 3, 12, settings={"weight": 1.0}),
    ),
    "group-dro": (Measured(-0.6, -1.2, 0.1, 1, 4, of="sets of three sources"),),
    "udalm": (Measured(-11.9, -11.9, -11.9, 0, 1, of="pair of domains"),),
    "dapt": (Measured(-4.3, -4.3, -4.3, 0, 1, of="pair of domains"),),
}
"""By method, from the mildest settings to the harshest. The first has the defaults."""


def losses_of(job: Job) -> Iterator[str]:
    """A warning where the job's method, with settings like its own, has lost on average."""
    applying = [row for row in MEASURED.get(job.adapt.method, ()) if row.applies_to(job.adapt)]
    if not applying or applying[-1].gain >= 0:
        return
    row = applying[-1]
    settings = "".join(f" with adapt.{option}: {value:g}" for option, value in row.settings.items())
    better = f"; by default it gained {_points(applying[0])}" if applying[0].gain > 0 else ""
    yield (
        f"{job.adapt.method}{settings} lost {_points(row)} of accuracy on average over {row.cases} {row.of} "
        f"({PAGE}){better}. Compare it on labelled samples of the target with the source alone: verdict.baseline"
    )


def _points(row: Measured) -> str:
    return f"{abs(row.gain):.1f} points"
