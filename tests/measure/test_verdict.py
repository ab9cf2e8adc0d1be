"""What is decided, and that the reason says it."""

from __future__ import annotations

from dataclasses import asdict, replace
from math import nan

import pytest

from launcher.measure.compare.verdict import Comparison, Role, Scale, Verdict, decide

ACCURACY = Scale("accuracy", lower_is_better=False, margin=0.01)
LOSS = Scale("loss", lower_is_better=True, margin=0.01)


def against(
    change: float, half: float, *, name: str = "tweets", role: Role = "decides", p: float | None = None
) -> Comparison:
    """A change of the metric from 0.7, with an interval of `half` to either side."""
    low, high = change - half, change + half
    p = (0.01 if low > 0 or high < 0 else 0.5) if p is None else p
    return Comparison(name, "pretrained", role, 400, 0.7, 0.7 + change, low, high, p, "exact McNemar")


@pytest.mark.parametrize(
    ("change", "half", "decision"),
    [
        (0.10, 0.04, "adopt"),
        (0.004, 0.003, "adopt"),
        (0.03, 0.04, "inconclusive"),
        (0.00, 0.04, "inconclusive"),
        (-0.02, 0.04, "inconclusive"),
        (0.00, 0.005, "keep the old model"),
        (0.002, 0.005, "keep the old model"),
        (-0.10, 0.04, "keep the old model"),
        (0.00, 0.00, "keep the old model"),
    ],
)
def test_one_set_decides(change: float, half: float, decision: str) -> None:
    assert decide([against(change, half)], ACCURACY).decision == decision


def test_few_samples_none_of_which_tells_the_two_apart_rule_nothing_out() -> None:
    found = decide([replace(against(0.0, 0.0), samples=60)], ACCURACY)
    assert found.decision == "inconclusive"
    assert (
        "the two models agree on every sample, which does not rule out a difference of up to 5.0 points" in found.reason
    )


@pytest.mark.parametrize(("change", "half"), [(0.10, 0.04), (-0.10, 0.04), (-0.05, 0.06), (0.001, 0.002)])
def test_a_metric_that_should_be_low_decides_the_other_way_round(change: float, half: float) -> None:
    mirrored = decide([against(-change, half)], LOSS).decision
    assert decide([against(change, half)], replace(ACCURACY, margin=0.007)).decision == mirrored


def test_an_interval_above_zero_that_the_exact_test_does_not_bear_out_is_no_reason_to_adopt() -> None:
    assert decide([against(0.05, 0.049, p=0.07)], ACCURACY).decision == "inconclusive"


@pytest.mark.parametrize(
    ("change", "half", "decision", "said"),
    [
        (0.02, 0.01, "adopt", "which it does"),
        (-0.005, 0.004, "adopt", "which it does"),
        (-0.05, 0.03, "keep the old model", "which it does not"),
        (-0.02, 0.03, "inconclusive", "cannot decide"),
        (0.00, 0.03, "inconclusive", "samples would decide it"),
    ],
)
def test_a_set_that_must_hold_can_forbid(change: float, half: float, decision: str, said: str) -> None:
    films = against(change, half, name="films", role="must hold")
    found = decide([against(0.1, 0.04), films], ACCURACY)
    assert found.decision == decision
    assert said in found.reason


def test_a_set_that_holds_does_not_make_up_for_one_that_did_not_improve() -> None:
    films = against(0.2, 0.01, name="films", role="must hold")
    assert decide([against(-0.1, 0.04), films], ACCURACY).decision == "keep the old model"
    assert decide([against(0.0, 0.04), films], ACCURACY).decision == "inconclusive"


def test_forgetting_beyond_the_margin_is_told_where_nothing_forbids_it() -> None:
    films = against(-0.06, 0.03, name="films", role="shown")
    found = decide([against(0.1, 0.04), films], ACCURACY)
    assert found.decision == "adopt"
    assert (
        "Accuracy on films fell by 6.0 points (95 %: -9.0 to -3.0), from 0.700 (the pretrained model) to 0.640, beyond"
        in found.reason
    )
    small = decide([against(0.1, 0.04), replace(films, new=0.695, low=-0.009, high=-0.001)], ACCURACY)
    assert "films" not in small.reason


def test_the_reason_is_in_plain_words() -> None:
    found = decide([against(0.1, 0.04)], ACCURACY, ["One more thing"])
    assert str(found) == (
        "adopt: Accuracy on tweets rose by 10.0 points (95 %: +6.0 to +14.0), from 0.700 (the pretrained model) to "
        "0.800. One more thing."
    )
    assert "fell by 0.1 (95 %: -0.14 to -0.06)" in decide([against(-0.1, 0.04)], LOSS).reason
    assert "a gain of 1 point is ruled out" in decide([against(0.0, 0.005)], ACCURACY).reason
    assert "(about 720 samples would decide it, not 400)" in decide([against(0.03, 0.04)], ACCURACY).reason


def test_a_narrow_gain_on_the_set_that_chose_the_checkpoint_is_told() -> None:
    narrow, wide = against(0.02, 0.015), against(0.1, 0.02)
    assert "The set tweets also selected the checkpoint" in decide([narrow], ACCURACY, chose="tweets").reason
    assert "checkpoint" not in decide([narrow], ACCURACY, chose="films").reason
    assert "checkpoint" not in decide([wide], ACCURACY, chose="tweets").reason


def test_what_is_no_number_is_not_adopted() -> None:
    assert decide([replace(against(0.1, 0.04), new=nan)], LOSS).decision == "keep the old model"
    assert decide([replace(against(0.1, 0.04), old=nan, low=nan)], LOSS).decision == "inconclusive"
    untold = replace(against(0.1, 0.04, name="films", role="must hold"), old=nan, low=nan, high=nan)
    assert decide([against(-0.1, 0.04), untold], LOSS).decision == "inconclusive"
    films = replace(against(0.1, 0.04, name="films", role="must hold"), new=nan)
    assert decide([against(-0.1, 0.04), films], LOSS).decision == "keep the old model"


def test_a_verdict_comes_back_from_plain_values() -> None:
    found = decide([against(0.1, 0.04), against(0.0, 0.1, name="films", role="shown")], ACCURACY)
    assert Verdict.from_dict(asdict(found)) == found
