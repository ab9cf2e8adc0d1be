"""What each measure means and what to do about it, in one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from launcher.measure.quality.balance import FEW, UNEVEN, Balance
from launcher.measure.quality.near_duplicates import LIKENESS
from launcher.measure.quality.report import Report

Level = Literal["mend", "look", "good", "left out"]
SHOWN = 5
"""Examples shown in the table; `--json` lists all."""
CUT = 0.05
"""Share of truncated samples from which it is reported."""
MOVED = 3.0
"""|z| from which the shares of classes or the lengths are reported as shifted."""
SMALL = 0.5
"""A-distance below which a gap is small: a domain classifier misclassifies more than three in eight samples."""
SURE = 0.01
"""p-value of MMD below which two sets differ; strict, since several sets are compared."""
WORDS = "words that the model must learn anew there, or that identify the source"
FAR = "fine-tune on samples of that set; without labels, with a method that learns from data.target"
COMPARE = "compares models on the same data: higher is better"


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    level: `mend` before training, `look` at it, `good`, or `left out`
    """

    level: Level
    subject: str
    found: str
    advice: str = ""


def findings(report: Report) -> list[Finding]:
    """All findings, in the order of the measures."""
    found = [
        *_duplicates(report),
        *_near(report),
        *_contradictions(report),
        *_faulty_texts(report),
        *_line_breaks(report),
        *(line for one in report.balances for line in _balance(one)),
        *_lengths(report),
        *_label_errors(report),
        *_distances(report),
        *_moves(report),
        *_transferability(report),
    ]
    return found + [Finding("left out", left.what, left.why) for left in report.left_out]


def _duplicates(report: Report) -> Iterator[Finding]:
    sizes = {one.name: one.samples for one in report.sets}
    again = [one for one in report.within if one.pairs]
    for one in again:
        shown = _some([f"{here} = {there}" for here, there in one.pairs])
        yield Finding(
            "look",
            f"duplicates in {one.set}",
            f"{_count(len(one.pairs), sizes[one.set])} repeat an earlier one: {shown}",
            "each of them counts twice; remove the later ones",
        )
    if not again:
        yield Finding("good", "duplicates", "no set has duplicate samples")
    for pair in report.across:
        if not pair.pairs:
            continue
        shown = _some([f"{here} = {there}" for here, there in pair.pairs])
        found = f"{_count(len(pair.pairs), sizes[pair.set])} of {pair.set} are in {pair.other}: {shown}"
        if pair.leaks:
            advice = "remove them from one of the two; training refuses them unless data.allow_leakage is true"
            yield Finding("look" if report.allowed else "mend", f"leakage into {pair.set}", found, advice)
        else:
            yield Finding("look", f"{pair.other} and {pair.set}", found, "metrics on the two sets are not independent")
    learned = dict.fromkeys(pair.other for pair in report.across if pair.leaks)
    if learned and not any(pair.leaks and pair.pairs for pair in report.across):
        yield Finding("good", "leakage", f"no validation sample is in {' or '.join(learned)}")


def _near(report: Report) -> Iterator[Finding]:
    kinds = {one.name: one.kind for one in report.sets}
    sizes = {one.name: one.samples for one in report.sets}
    by_sets: dict[tuple[str, str], dict[int, str]] = {}
    for near in report.near:
        text = f"{near.number} ≈ {near.other_number} ({near.likeness:.2f})"
        by_sets.setdefault((near.set, near.other_set), {}).setdefault(near.number, text)
    for (name, other), numbers in by_sets.items():
        found = f"{_count(len(numbers), sizes[name])} of {name}"
        shown = _some(list(numbers.values()))
        if name == other:
            advice = "check whether they are the same text, and keep one of each"
            yield Finding("look", f"near duplicates in {name}", f"{found} are nearly an earlier one: {shown}", advice)
        else:
            advice = "near copies of training samples are easy to predict; look at them, and split by group"
            if (kinds[name], kinds[other]) != ("validation", "train"):
                advice = "look at them; the two are less different than they seem"
            yield Finding("look", f"{other} and {name}", f"{found} are nearly one of {other}: {shown}", advice)
    if report.has_texts and not report.near:
        yield Finding("good", "near duplicates", f"no two texts share {100 * LIKENESS:.0f} % of their pieces")


def _contradictions(report: Report) -> Iterator[Finding]:
    if not report.contradictions:
        if report.balances:
            yield Finding("good", "contradictions", "no sample has two different labels")
        return
    shown = _some(
        [" / ".join(f"{name} {number}: {_label(label)}" for name, number, label in one.places[:3])
         for one in report.contradictions]
    )  # fmt: skip
    yield Finding(
        "look",
        "contradictions",
        f"{len(report.contradictions)} samples have more than one label: {shown}",
        "no model can be right on both; correct or remove them",
    )


def _faulty_texts(report: Report) -> Iterator[Finding]:
    kinds: dict[tuple[str, str], list[int]] = {}
    for one in report.mojibake:
        kinds.setdefault((one.set, one.fault), []).append(one.number)
    for (name, fault), numbers in kinds.items():
        found = f"{len(numbers)} of {name}: samples {_some([str(number) for number in numbers])}"
        if fault == "empty":
            yield Finding("mend", "empty texts", found, "training refuses them; remove the rows or fill them")
        elif fault in ("mojibake", "replacement character"):
            advice = "the file was once read with the wrong encoding; go back to the original"
            yield Finding("look", fault, found, advice)
        else:
            yield Finding("look", fault, found, "read them, and remove those without content")
    if report.has_texts and not report.mojibake:
        yield Finding("good", "texts", "no empty texts, no mojibake")


def _line_breaks(report: Report) -> Iterator[Finding]:
    sizes = {one.name: one.samples for one in report.sets}
    for one in report.line_breaks:
        shown = _some([str(number) for number in one.numbers])
        found = f"{_count(len(one.numbers), sizes[one.set])} of {one.set} hold a line break: samples {shown}"
        advice = "check whether a stray quote has merged rows there; if so, set `quoting: false`"
        yield Finding("look", f"line breaks in {one.set}", found, advice)


def _balance(one: Balance) -> Iterator[Finding]:
    if one.unlabelled:
        found = f"{len(one.unlabelled)} of {one.set}: samples {_some([str(n) for n in one.unlabelled])}"
        yield Finding("mend", "no label", found, "training refuses them; remove the rows or label them")
    if one.unknown:
        found = f"{one.set} has {_some([repr(label) for label in one.unknown])}, which train lacks"
        yield Finding("mend", "unknown labels", found, "correct them, or add training samples of them")
    if not one.counts:
        return
    shown = _some([f"{label} {_percent(count / one.total)}" for label, count in one.counts.items()])
    few = [label for label, count in one.counts.items() if count < FEW] if one.set == "train" else []
    if few:
        advice = "add samples of them, or merge classes"
        yield Finding("look", f"classes of {one.set}", f"{shown}; fewer than {FEW} of {_some(few)}", advice)
    elif one.unevenness >= UNEVEN:
        advice = "select by balanced_accuracy or macro_f1; try train.loss.class_weights: balanced"
        yield Finding("look", f"classes of {one.set}", f"{shown}: {one.unevenness:.0f} times as many", advice)
    else:
        yield Finding("good", f"classes of {one.set}", shown)


def _moves(report: Report) -> Iterator[Finding]:
    for one in report.moves:
        moved = [move for move in one.classes if abs(move.z) >= MOVED]
        if moved:
            shown = _some([f"{move.label} {_percent(move.share)} → {_percent(move.other_share)}" for move in moved])
            advice = "accuracy there is not comparable with training; compare balanced figures"
            yield Finding("look", f"classes, train → {one.set}", shown, advice)
        for heading, words in (
            ("more", [move for move in one.words if move.z > 0]),
            ("fewer", [move for move in one.words if move.z < 0]),
        ):
            if words:
                shown = _some([f"{move.word} ({move.texts} → {move.other_texts})" for move in words], 10)
                yield Finding("look", f"words, train → {one.set}", f"in {heading} texts: {shown}", WORDS)
        if one.length is not None and abs(one.length.z) >= MOVED:
            found = f"median {one.length.median:.0f} → {one.length.other_median:.0f} characters"
            found += f"; longer than one of train with probability {one.length.longer:.2f}"
            yield Finding("look", f"lengths, train → {one.set}", found, "choose train.max_length for both")


def _distances(report: Report) -> Iterator[Finding]:
    for one in report.distances:
        parts, apart = [], one.mmd.p_value < SURE
        if one.a_distance is not None:
            far = one.a_distance
            parts.append(f"A-distance {far.distance:.2f} of 2 (95 %: {far.low:.2f} to {far.high:.2f})")
            apart = apart or far.low > 0
        parts.append(f"MMD² {one.mmd.squared:.4f} (p = {one.mmd.p_value:.3f})")
        subject, found = f"distance, train → {one.set}", ", ".join(parts)
        if not apart:
            yield Finding("good", subject, f"{found}: no gap in the model's features")
        elif one.a_distance is not None and one.a_distance.distance < SMALL:
            yield Finding("look", subject, found, "a small gap: fine-tune, and evaluate on samples of that set")
        else:
            yield Finding("look", subject, found, FAR)


def _transferability(report: Report) -> Iterator[Finding]:
    probe, scores = report.probe, report.transferability
    if scores is None:
        return
    parts = []
    if scores.h_score is not None:
        parts.append(f"H-score {scores.h_score:.3f} of at most {scores.most}")
    parts.append(f"LogME {scores.logme:.3f}")
    if probe is None:
        yield Finding("good", "transferability", ", ".join(parts), COMPARE)
        return
    right = (
        f"a linear probe classifies {_percent(probe.accuracy)} correctly (95 %: {_percent(probe.low)} to "
        f"{_percent(probe.high)}"
    )
    found = f"{right}; the most frequent class is {_percent(probe.majority)}), {', '.join(parts)}"
    if probe.low <= probe.majority:
        yield Finding(
            "look",
            "transferability",
            found,
            "the features carry little information about the labels; try another model",
        )
    else:
        yield Finding("good", "transferability", found, COMPARE)


def _label_errors(report: Report) -> Iterator[Finding]:
    if report.label_errors is None:
        return
    wrong, samples = report.label_errors, report.sets[0].samples
    if not wrong:
        yield Finding("good", "label errors", "none is likely")
        return
    shown = _some([f"{one.number} ({one.label}, rather {one.suggested})" for one in wrong])
    right = f"{100 * report.probe.accuracy:.0f} %" if report.probe is not None else "unknown"
    advice = f"review them, most confident first (--json); the classifier that found them has an accuracy of {right}"
    yield Finding("look", "label errors", f"{_count(len(wrong), samples)} of train are likely: {shown}", advice)


def _lengths(report: Report) -> Iterator[Finding]:
    for one in report.lengths:
        tokens = f"half have {one.median} tokens or fewer, 95 % {one.p95}, the longest {one.longest}"
        if one.cut == 0:
            yield Finding("good", f"lengths of {one.set}", f"{tokens}; none is cut at {one.max_length}")
            continue
        found = (
            f"{tokens}; {_percent(one.cut)} are cut at {one.max_length}, which loses {_percent(one.lost)} of all tokens"
        )
        advice = f"train.max_length: {one.p95} would cut one in twenty" if one.cut > CUT else ""
        yield Finding("look" if one.cut > CUT else "good", f"lengths of {one.set}", found, advice)


def _count(some: int, of: int) -> str:
    return f"{some} of {of} ({_percent(some / of)})"


def _some(shown: Sequence[str], most: int = SHOWN) -> str:
    rest = len(shown) - most
    return ", ".join(shown[:most]) + (f" and {rest} more" if rest > 0 else "")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _label(label: str | tuple[str, ...]) -> str:
    return label if isinstance(label, str) else " ".join(label)[:30]


def levels(lines: Sequence[Finding]) -> Counter[Level]:
    """The number of findings of each level."""
    return Counter(line.level for line in lines)
