"""Measured gains of the adaptation methods, so that a plan can warn of methods that lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from launcher.job.schema import Job
from launcher.job.sections.adapting import Adapting

PAGE = "docs/measured/adaptation.md"
OTHERS = "other pairs of domains"


@dataclass(frozen=True)
class Measured:
    """A method's gain over training on the source alone, as on `PAGE`.

    gain: points of accuracy on the target, the mean over the cases
    low, high: ends of its 95 % interval
    won, cases: in how many cases it gained, of how many
    settings: options that differ from the default; they stand for all values further from it, too
    """

    gain: float
    low: float
    high: float
    won: int
    cases: int
    of: str = "pairs of domains"
    settings: Mapping[str, float] = field(default_factory=dict)

    def applies_to(self, adapt: Adapting) -> bool:
        """Whether a job's settings are at least as extreme as these."""
        return all(self._reaches(adapt, option, value) for option, value in self.settings.items())

    def _reaches(self, adapt: Adapting, option: str, value: float) -> bool:
        default = type(adapt).model_fields[option].default
        mine: float = getattr(adapt, option)
        return mine >= value if value > default else mine <= value


MEASURED: Mapping[str, tuple[Measured, ...]] = {
    "self-training": (
        Measured(2.5, 1.7, 3.4, 12, 12),
        Measured(3.1, 1.3, 5.1, 8, 10, OTHERS),
    ),
    "mcc": (
        Measured(2.2, 1.2, 3.4, 11, 12),
        Measured(3.1, -1.2, 6.9, 8, 10, OTHERS),
    ),
    "coral": (
        Measured(1.8, 1.0, 2.8, 12, 12),
        Measured(2.6, 0.5, 4.8, 8, 10, OTHERS),
    ),
    "mmd": (
        Measured(1.6, 0.8, 2.5, 11, 12),
        Measured(2.0, -0.1, 4.1, 6, 10, OTHERS),
    ),
    "tent": (
        Measured(1.5, 0.8, 2.3, 12, 12),
        Measured(1.5, 0.7, 2.3, 9, 10, OTHERS),
        Measured(-1.4, -2.3, -0.7, 1, 12, settings={"diversity": 0.0}),
        Measured(-9.2, -10.9, -7.4, 0, 12, settings={"diversity": 0.0, "lr_factor": 1.0}),
    ),
    "shot": (
        Measured(1.4, 1.0, 1.8, 12, 12),
        Measured(2.0, 0.7, 3.3, 8, 10, OTHERS),
    ),
    "cdan": (
        Measured(0.2, -0.0, 0.4, 9, 12),
        Measured(-0.7, -1.7, 0.4, 3, 10, OTHERS),
        Measured(-2.4, -5.6, 0.5, 5, 12, settings={"weight": 0.3}),
        Measured(-10.1, -15.8, -4.5, 3, 12, settings={"weight": 1.0}),
    ),
    "dann": (
        Measured(0.2, -0.1, 0.5, 8, 12),
        Measured(-0.2, -1.6, 1.0, 6, 10, OTHERS),
        Measured(-1.2, -3.3, 0.9, 5, 12, settings={"weight": 0.3}),
        Measured(-11.2, -16.5, -5.8, 1, 12, settings={"weight": 1.0}),
    ),
    "group-dro": (Measured(-0.6, -1.0, 0.0, 1, 4, "sets of three sources"),),
    "dapt": (Measured(-4.3, -4.3, -4.3, 0, 1, "pair of domains"),),
    "udalm": (Measured(-11.9, -11.9, -11.9, 0, 1, "pair of domains"),),
}
"""By method, from the mildest settings to the most extreme. The first has the defaults; so has one on other domains."""


def losses_of(job: Job) -> Iterator[str]:
    """A warning if the job's method, with settings like its own, lost on average."""
    applying = [row for row in MEASURED.get(job.adapt.method, ()) if row.applies_to(job.adapt)]
    row = min(
        (row for row in applying if row.settings == applying[-1].settings), key=lambda row: row.gain, default=None
    )
    if row is None or row.gain >= 0:
        return
    settings = ", ".join(f"adapt.{option}: {value:g}" for option, value in row.settings.items())
    method = f"{job.adapt.method}{' with ' * bool(settings)}{settings}"
    better = f"; by default it gained {_points(applying[0])}" if row.settings and applying[0].gain > 0 else ""
    interval = f", 95 % interval {row.low:+.1f} to {row.high:+.1f}{', which may be chance' * (row.high >= 0)}"
    learned = "" if job.adapt.adapters is None else ", with all weights trained"
    where = f"on average over {row.cases} {row.of}{interval * (row.cases > 1)}{learned} ({PAGE})"
    advice = "Compare it with training on the source alone, on labelled samples of the target: verdict.baseline"
    yield f"{method} lost {_points(row)} of accuracy {where}{better}. {advice}"


def _points(row: Measured) -> str:
    return f"{abs(row.gain):.1f} points"
