"""All measures of a job's data, and whether the data are fit for training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from launcher.measure.quality.balance import Balance, ClassMove, balance, class_moves
from launcher.measure.quality.duplicates import Across, Contradiction, Within, across, contradictions, within
from launcher.measure.quality.label_errors import LabelError, Probe
from launcher.measure.quality.label_sets import LabelSet
from launcher.measure.quality.lengths import Lengths
from launcher.measure.quality.line_breaks import LineBreaks, rare_line_breaks
from launcher.measure.quality.mojibake import Mojibake, faulty_texts
from launcher.measure.quality.near_duplicates import Near, near_duplicates
from launcher.measure.quality.samples import Kind, SampleSet
from launcher.measure.quality.transferability import Transferability
from launcher.measure.shift.a_distance import ADistance
from launcher.measure.shift.frequencies import LengthMove, WordMove, length_move, word_moves
from launcher.measure.shift.mmd import MMD


@dataclass(frozen=True)
class SetFacts:
    """One set of the job."""

    name: str
    kind: Kind
    samples: int


@dataclass(frozen=True)
class LeftOut:
    """What was not measured, why, and how to enable it."""

    what: str
    why: str


@dataclass(frozen=True)
class Comparison:
    """How another set differs from training in classes, words and lengths, the largest shift first."""

    set: str
    classes: tuple[ClassMove, ...]
    words: tuple[WordMove, ...]
    length: LengthMove | None


@dataclass(frozen=True)
class Distance:
    """Distance of another set to training on the model's own features; a_distance is None without scikit-learn."""

    set: str
    a_distance: ADistance | None
    mmd: MMD


@dataclass
class Report:
    """The measures of the data; filled in one after another.

    allowed: whether the job trains in spite of leakage
    """

    sets: tuple[SetFacts, ...]
    allowed: bool
    has_texts: bool
    within: list[Within] = field(default_factory=list)
    across: list[Across] = field(default_factory=list)
    near: list[Near] = field(default_factory=list)
    contradictions: list[Contradiction] = field(default_factory=list)
    mojibake: list[Mojibake] = field(default_factory=list)
    line_breaks: list[LineBreaks] = field(default_factory=list)
    balances: list[Balance] = field(default_factory=list)
    lengths: list[Lengths] = field(default_factory=list)
    moves: list[Comparison] = field(default_factory=list)
    distances: list[Distance] = field(default_factory=list)
    transferability: Transferability | None = None
    probe: Probe | None = None
    label_errors: list[LabelError] | None = None
    labels: list[LabelSet] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        return asdict(self)


def look_at(sets: Sequence[SampleSet], has_classes: bool, allowed: bool, *, learns_from_target: bool = False) -> Report:
    """The measures on the samples alone, without a model.

    has_classes: whether labels are classes rather than numbers
    allowed: whether the job trains in spite of leakage
    learns_from_target: whether the job's method trains on the target's samples
    """
    train, has_texts = sets[0], sets[0].has_texts
    report = Report(tuple(SetFacts(data.name, data.kind, len(data)) for data in sets), allowed, has_texts)
    report.within = [within(data) for data in sets]
    report.line_breaks = [breaks for data in sets if (breaks := rare_line_breaks(data)) is not None]
    report.across = across(sets, learns_from_target=learns_from_target)
    if has_texts:
        report.near = near_duplicates(sets)
        report.mojibake = [found for data in sets for found in faulty_texts(data)]
    else:
        report.left_out.append(LeftOut("near duplicates, mojibake", "the samples are no texts"))
    if has_classes:
        report.contradictions = contradictions(sets)
        report.balances = [found for data in sets if (found := balance(data, train)) is not None]
    report.moves = [_moves(train, other, report.balances) for other in sets[1:]]
    return report


def _moves(train: SampleSet, other: SampleSet, balances: Sequence[Balance]) -> Comparison:
    known = {one.set: one for one in balances}
    classes = class_moves(known[train.name], known[other.name]) if {train.name, other.name} <= set(known) else []
    if not train.has_texts:
        return Comparison(other.name, tuple(classes), (), None)
    words = word_moves(train.texts, other.texts)
    return Comparison(other.name, tuple(classes), tuple(words), length_move(train.texts, other.texts))
