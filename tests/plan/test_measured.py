"""What is told of a method is what the page of measurements has, and a plan warns of what has lost."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from launcher.job.schema import Job
from launcher.job.sections.methods import SECTIONS
from launcher.plan.hardware import Hardware
from launcher.plan.measured import MEASURED, PAGE, Measured, losses_of
from launcher.plan.plan import Plan
from launcher.plan.planner import make_plan
from tests.worlds import REPOSITORY

LAPTOP = Hardware((), cores=4, memory=2**34)
OF_PAGES = (REPOSITORY / PAGE).read_text(encoding="utf-8")
SWEPT = {
    **dict.fromkeys(("dann", "cdan"), ("weight", "discriminator_lr_factor")),
    "tent": ("lr_factor", "diversity"),
    **dict.fromkeys(("coral", "mmd", "mcc", "self-training"), ("weight",)),
    "shot": ("diversity",),
}
"""Options that the page's sweep names."""


def job(**adapt: Any) -> Job:
    use = SECTIONS[adapt["method"]].target
    data = {"target": "target.csv"} if use != "none" else {}
    if use != "alone":
        data["train"] = "train.csv"
    values = {"name": "x", "model": {"pretrained": "minilm"}, "task": "text-classification", "adapt": adapt}
    return Job.model_validate({**values, "data": data})


def gain(row: Measured) -> str:
    return f"{row.gain:+.1f} [{row.low:+.1f}, {row.high:+.1f}] | {row.won} of {row.cases} |"


@pytest.mark.parametrize(("method", "row"), [(method, rows[0]) for method, rows in MEASURED.items()])
def test_the_figure_of_a_method_is_that_of_the_page(method: str, row: Measured) -> None:
    assert not row.settings
    name = "all" if method == "group-dro" else f"adaptrun | {method}"
    assert re.search(rf"\| {re.escape(name)} \| [\d.]+ \| {re.escape(gain(row))}", OF_PAGES), gain(row)


@pytest.mark.parametrize(("method", "row"), [(method, row) for method, rows in MEASURED.items() for row in rows[1:]])
def test_the_figure_of_a_setting_and_of_other_domains_is_that_of_the_page(method: str, row: Measured) -> None:
    section = type(job(method=method).adapt)
    options = {option: section.model_fields[option].default for option in SWEPT[method]} | row.settings
    named = f"{method}: " + ", ".join(f"{option} {value:g}" for option, value in options.items())
    of_own, of_others = OF_PAGES.split("that had no part in choosing them")
    page, shown = (of_own, named) if row.settings else (of_others, f"**{named}**")
    assert f"| {shown} | {gain(row)}" in page


def test_what_to_try_first_is_what_gained_most() -> None:
    page = (REPOSITORY / "docs/guides/domains.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w-]+)` \| ([^|]+\|[^|]+\|)", page.partition("## All methods")[0], re.M)
    by_gain = sorted(MEASURED.items(), key=lambda one: -one[1][0].gain)
    assert rows == [(method, gain(measured[0])) for method, measured in by_gain]


@pytest.mark.parametrize(
    ("adapt", "loss"),
    [
        ({"method": "mcc"}, None),
        ({"method": "finetune"}, None),
        ({"method": "coral"}, None),
        ({"method": "tent"}, None),
        ({"method": "dann"}, MEASURED["dann"][1]),
        ({"method": "dann", "weight": 0.01}, MEASURED["dann"][1]),
        ({"method": "dann", "weight": 0.1}, MEASURED["dann"][1]),
        ({"method": "dann", "weight": 1.0}, MEASURED["dann"][-1]),
        ({"method": "dann", "weight": 7.0}, MEASURED["dann"][-1]),
        ({"method": "cdan", "weight": 1.0}, MEASURED["cdan"][-1]),
        ({"method": "tent", "diversity": 0.0}, MEASURED["tent"][-2]),
        ({"method": "tent", "diversity": 0.0, "lr_factor": 1.0}, MEASURED["tent"][-1]),
        ({"method": "group-dro"}, MEASURED["group-dro"][0]),
        ({"method": "udalm"}, MEASURED["udalm"][0]),
    ],
)
def test_a_plan_warns_of_a_method_that_has_lost_and_says_where(
    adapt: dict[str, Any], loss: Measured | None, tmp_path: Path
) -> None:
    warnings = list(losses_of(job(**adapt)))
    if loss is None:
        assert not warnings
        return
    (warning,) = warnings
    assert f"lost {-loss.gain:.1f} points" in warning
    assert f"on average over {loss.cases} " in warning
    assert PAGE in warning
    assert ("interval" in warning) == (loss.cases > 1)


def test_the_warning_is_in_the_plan_that_is_printed_and_saved(tmp_path: Path) -> None:
    for name in ("train.csv", "target.csv"):
        (tmp_path / name).write_text("text,label\n" + "a,b\n" * 9)
    asked = job(method="dann", weight=1.0)
    data = {"train": {"train": {"source": str(tmp_path / "train.csv")}}, "target": str(tmp_path / "target.csv")}
    asked = Job.model_validate({**asked.model_dump(), "data": data})
    plan = make_plan(asked, tmp_path / "job.yaml", LAPTOP)
    assert plan.warnings == tuple(losses_of(asked))
    assert f"warning    {plan.warnings[0]}" in str(plan)
    plan.save(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == plan
