"""Each key of the job file says what it decides, and what follows from that is derived."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
from pydantic import Field

from launcher.job.schema import Job, Model
from launcher.job.sections.data import Source
from launcher.job.sections.marks import changed_fields, mark_of, names_that, numbers, values_that
from launcher.job.sections.methods import SECTIONS
from launcher.job.sections.section import Section
from launcher.job.sections.training import Train
from launcher.run.resuming import differing_fields

OPTIONS: dict[str, dict[str, Any]] = {
    "finetune": {
        "rehearsal": {"source": "old.csv"},
        "adapters": {"kind": "lora"},
        "probe": {"steps": 2},
        "average": {"name": "ema"},
        "distill": {},
    },
    "own": {"code": "mine.py:Mine"},
}


def job_with(method: str) -> Job:
    """A job in which every section is there."""
    return Job.model_validate(
        {
            "name": "x",
            "model": {"pretrained": "minilm"},
            "task": "text-classification",
            "data": {"train": "a.csv", "validation": "b.csv", "target": "c.csv"},
            "train": {"early_stopping": {}},
            "adapt": {"method": method, **OPTIONS.get(method, {})},
            "track": ["wandb"],
        }
    )


def sections_below(kind: type[Section]) -> Iterator[type[Section]]:
    """A section and all that a job file may have in it."""
    yield kind
    for field in kind.model_fields.values():
        for below in _sections_in(field.annotation):
            yield from sections_below(below)


def _sections_in(annotation: Any) -> Iterator[type[Section]]:
    if get_origin(annotation) in (Union, types.UnionType, Annotated, dict, tuple):
        for part in get_args(annotation):
            yield from _sections_in(part)
    elif isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation


EVERY_FIELD = sorted({(kind, name) for kind in sections_below(Job) for name in kind.model_fields}, key=str)


@pytest.mark.parametrize(("kind", "name"), EVERY_FIELD, ids=[f"{kind.__name__}.{name}" for kind, name in EVERY_FIELD])
def test_a_field_says_what_it_decides(kind: type[Section], name: str) -> None:
    mark = mark_of(kind, name)
    assert not mark.decides & {"data", "measurement"} or "numbers" in mark.decides
    assert len(mark.decides & {"numbers", "speed", "report"}) == (not mark.is_section)


def test_a_field_without_a_mark_is_found() -> None:
    class Forgotten(Section):
        said: int = numbers(1, description="x")
        unsaid: int = Field(1, description="x")

    with pytest.raises(LookupError, match=r"Forgotten\.unsaid does not say what it decides"):
        values_that("numbers", Forgotten())


def leaves(section: Section, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Section, str]]:
    """Each field that holds a value: where it is, its section there, its name."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name), section, name


def changed(value: Any, path: tuple[str, ...], to: Any) -> Any:
    """A copy of a section with another value at a path."""
    first, *rest = path
    inner = changed(getattr(value, first), tuple(rest), to) if rest else to
    return value.model_copy(update={first: inner})


def other(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return f"{value}x"
    if isinstance(value, tuple):
        return value[1:] if value else ("x",)
    return {} if value else {"x": 1.0} if isinstance(value, dict) else "x"


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("method", SECTIONS)
def test_a_resumed_run_must_agree_in_what_decides_numbers_and_in_nothing_else(method: str) -> None:
    job, seen = job_with(method), set()
    for path, section, name in leaves(job):
        mark = mark_of(type(section), name)
        expected = ["numbers" in mark.decides]
        above: Any = job
        for part in path[:-1]:
            expected.append(_decides_numbers(above, part))
            above = getattr(above, part)
        found = differing_fields(job, changed(job, path, other(getattr(section, name))))
        assert bool(found) == all(expected), (path, found)
        assert all(".".join(path).startswith(one) or one.startswith(".".join(path)) for one in found), (path, found)
        seen.add(mark.decides)
    assert {frozenset({"speed"}), frozenset({"report"}), frozenset({"numbers"})} <= seen


def _decides_numbers(section: Section, name: str) -> bool:
    mark = mark_of(type(section), name)
    return mark.is_section or "numbers" in mark.decides


def test_the_presence_of_a_section_that_decides_numbers_is_a_difference() -> None:
    job = job_with("finetune")
    without = changed(job, ("train", "early_stopping"), None)
    assert differing_fields(job, without) == ["train.early_stopping"]
    assert differing_fields(job, changed(job, ("track",), ())) == []


def test_what_is_kept_with_a_model_measures_it_and_finds_its_base() -> None:
    assert values_that("measurement", Train()) == {
        "mask_share": 0.15,
        "max_seconds": 10.0,
        "loss": {"name": "auto", "delta": 1.0},
    }
    assert names_that("measurement", Model) == (
        *("config", "tokenizer", "revision", "allow_missing", "allow_unexpected", "labels"),
    )


def test_prepared_data_depend_on_how_they_are_read_and_cut() -> None:
    assert values_that("data", Train(max_length=7)) == {"max_length": 7, "max_seconds": 10.0}
    assert {*Source.model_fields} - {*values_that("data", Source(source="a.csv"))} == {"source"}


def test_changed_fields_are_found_at_any_depth() -> None:
    job = job_with("finetune")
    asking = {".".join(path) for path, _, mark in changed_fields(job) if mark.asks_model}
    assert asking == {"adapt.adapters.kind", "adapt.probe", "adapt.average", "adapt.distill"}
    assert ("track", "0", "name") in {path for path, _, _ in changed_fields(job)}
