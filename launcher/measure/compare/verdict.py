"""Whether the result should replace the old model: one decision, and the reason in plain words.

One test decides: is the result better than the baseline, by one metric on one set? It is a single test, so its interval
needs no correction. The p-values of all sets and candidates, shown with it, are corrected by Holm's method. Each set
that must hold is tested too, and each can veto; this intersection-union test needs no correction (Berger 1982,
"Multiparameter Hypothesis Testing and Acceptance Sampling", Technometrics 24).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil, isfinite, log10
from typing import Any, Literal

Decision = Literal["adopt", "keep the old model", "inconclusive"]
Role = Literal["decides", "must hold", "shown"]
Test = Literal["exact McNemar", "bootstrap"]

PRETRAINED = "pretrained"
LEVEL = 0.05


@dataclass(frozen=True)
class Comparison:
    """The result against one other model on one set, by the metric that decides.

    candidate: the other model
    role: the purpose of the comparison
    old, new: the metric of the other model and of the result
    low, high: ends of the 95 % interval of `new - old`
    p: p-value of no difference, by `test`; corrected_p: by Holm, over all comparisons
    """

    set: str
    candidate: str
    role: Role
    samples: int
    old: float
    new: float
    low: float
    high: float
    p: float
    test: Test
    corrected_p: float = 1.0


@dataclass(frozen=True)
class Scale:
    """The metric that decides, and the margin within which differences are negligible.

    margin: in units of the metric if higher is better; a fraction of the baseline's value if lower is better
    """

    metric: str
    lower_is_better: bool
    margin: float

    def margin_of(self, comparison: Comparison) -> float:
        """The margin in the metric's units."""
        return self.margin * abs(comparison.old) if self.lower_is_better else self.margin

    def gain(self, comparison: Comparison) -> tuple[float, float, float]:
        """How much better the result is: the estimate and the ends of its interval; negative if it is worse."""
        change = comparison.new - comparison.old
        if self.lower_is_better:
            return -change, -comparison.high, -comparison.low
        return change, comparison.low, comparison.high

    def amount(self, value: float, *, signed: bool = False) -> str:
        """A difference as text: in points for a score, else a number."""
        sign = "+" if signed else ""
        if self.lower_is_better:
            return f"{value:{sign}.4g}"
        points = f"{100 * value:{sign}.1f}"
        return "1 point" if points == "1.0" else f"{points} points"


@dataclass(frozen=True)
class Verdict:
    """The decision, the comparisons and the reason."""

    decision: Decision
    reason: str
    metric: str
    lower_is_better: bool
    margin: float
    set: str
    baseline: str
    comparisons: tuple[Comparison, ...]

    def __str__(self) -> str:
        return f"{self.decision}: {self.reason}"

    def forbidden(self, why: str) -> Verdict:
        """The same with the decision to keep the old model, whatever was measured."""
        return replace(self, decision="keep the old model", reason=f"{_capital(why)}. {self.reason}")

    @property
    def scale(self) -> Scale:
        """The metric and its margin."""
        return Scale(self.metric, self.lower_is_better, self.margin)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Verdict:
        """Read back what `dataclasses.asdict` gave, by this version or by 0.1.0, which called a candidate an arm."""
        comparisons = tuple(
            Comparison(**{"candidate" if name == "arm" else name: value for name, value in found.items()})
            for found in values["comparisons"]
        )
        return cls(**{**values, "comparisons": comparisons})


def decide(
    comparisons: Sequence[Comparison], scale: Scale, caveats: Iterable[str] = (), chose: str | None = None
) -> Verdict:
    """Decide by the deciding comparison and by those that must hold; the others are only reported.

    caveats: sentences on the limits of the comparison, added to the reason
    chose: the set that also selected the checkpoint, so that the result on it is biased upwards
    """
    deciding = next(found for found in comparisons if found.role == "decides")
    decision, why = _improved(deciding, scale)
    sentences = [why]
    for found in comparisons:
        if found.role == "must hold":
            held, said = _held(found, scale)
            sentences.append(said)
            if held is False:
                decision = "keep the old model"
            elif held is None and decision == "adopt":
                decision = "inconclusive"
        elif found.candidate == deciding.candidate and found.set != deciding.set and _fell(found, scale):
            sentences.append(f"{_said(found, scale)}, beyond the margin; verdict.must_hold would forbid that")
    if decision == "adopt" and deciding.set == chose and scale.gain(deciding)[1] < scale.margin_of(deciding):
        sentences.append(
            f"the set {chose} also selected the checkpoint, so the result on it is biased "
            "upwards; set verdict.set to another set"
        )
    return Verdict(
        decision=decision,
        reason=". ".join(_capital(sentence) for sentence in [*sentences, *caveats]) + ".",
        metric=scale.metric,
        lower_is_better=scale.lower_is_better,
        margin=scale.margin,
        set=deciding.set,
        baseline=deciding.candidate,
        comparisons=tuple(comparisons),
    )


def undecided(reason: str, scale: Scale, name: str, baseline: str) -> Verdict:
    """The verdict if nothing can be compared."""
    return Verdict(
        "inconclusive", f"{reason}.", scale.metric, scale.lower_is_better, scale.margin, name, baseline, comparisons=()
    )


def corrected(comparisons: Sequence[Comparison], p_values: Sequence[float]) -> list[Comparison]:
    """The comparisons with their corrected p-values."""
    return [replace(found, corrected_p=p) for found, p in zip(comparisons, p_values, strict=True)]


def _improved(found: Comparison, scale: Scale) -> tuple[Decision, str]:
    """The deciding test: better, not better by a margin, or inconclusive."""
    if not isfinite(found.new):
        return "keep the old model", f"{scale.metric} of the result on {found.set} is NaN or infinite"
    if not isfinite(found.old) or not isfinite(found.low):
        return "inconclusive", f"{scale.metric} of {_name_of(found)} on {found.set} is NaN or infinite"
    gain, low, high = scale.gain(found)
    margin = scale.margin_of(found)
    said = _said(found, scale)
    if low > 0 and found.p < LEVEL:
        return "adopt", said
    if high < 0:
        return "keep the old model", said
    unseen = 3 / found.samples
    if low == high == 0 and not scale.lower_is_better and unseen > margin:  # 95 % bound: none was seen
        most = scale.amount(unseen)
        return (
            "inconclusive",
            f"{said}: the two models agree on every sample, which does not rule out a difference of up to {most}",
        )
    if high < margin:
        return "keep the old model", f"{said}; a gain of {scale.amount(margin)} is ruled out"
    return "inconclusive", f"{said}, which may be chance{_samples_needed(found, scale, gain)}"


def _held(found: Comparison, scale: Scale) -> tuple[bool | None, str]:
    """Whether a set that must hold did: True within the margin, False if it fell, None if inconclusive."""
    if not isfinite(found.new):
        return False, f"{scale.metric} of the result on {found.set}, which must hold, is NaN or infinite"
    gain, low, _ = scale.gain(found)
    margin = scale.margin_of(found)
    said = f"{_said(found, scale)}, and it must hold within {scale.amount(margin)}"
    if low >= -margin:
        return True, f"{said}, which it does"
    if _fell(found, scale):
        return False, f"{said}, which it does not"
    return None, f"{said}, which so few samples cannot decide{_samples_needed(found, scale, margin + gain)}"


def _fell(found: Comparison, scale: Scale) -> bool:
    """Whether a set fell significantly, and by an estimate beyond the margin."""
    gain, _, high = scale.gain(found)
    return high < 0 and gain < -scale.margin_of(found)


def _said(found: Comparison, scale: Scale) -> str:
    """`accuracy on tweets rose by 9.1 points (95 %: +5.0 to +13.2), from 0.700 (the pretrained model) to 0.791`."""
    change = found.new - found.old
    verb = "rose" if change > 0 else "fell" if change < 0 else "stayed"
    moved = f"{verb} by {scale.amount(abs(change))}" if change else verb
    low, high = (scale.amount(end, signed=True).removesuffix(" points") for end in (found.low, found.high))
    ends = f"from {found.old:.3f} ({_name_of(found)}) to {found.new:.3f}"
    return f"{scale.metric} on {found.set} {moved} (95 %: {low} to {high}), {ends}"


def _name_of(found: Comparison) -> str:
    """The other model, as named within a sentence."""
    return "the pretrained model" if found.candidate == PRETRAINED else found.candidate


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _samples_needed(found: Comparison, scale: Scale, distance: float) -> str:
    """How many samples would decide, if the estimate is right: an interval shrinks with the root of their number."""
    half = (found.high - found.low) / 2
    if not (half > 0 and distance >= half / 20):
        return ""
    needed = found.samples * (half / distance) ** 2
    if needed <= found.samples:
        return ""
    digits = 10 ** max(0, int(log10(needed)) - 1)
    return f" (about {ceil(needed / digits) * digits:,} samples would decide it, not {found.samples:,})"
