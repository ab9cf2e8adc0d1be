"""Events are written whole, read once, and outlive versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.run.events import KINDS, EventLog, EventTail, Note, Phase, Started, Step, parse


def a_step(number: int) -> Step:
    return Step(
        step=number, epoch=0, loss=0.5, lr=1e-3, gradient_norm=1.0, samples=8, tokens=90, seconds=0.5, memory=2**30
    )


def test_events_come_back_as_they_were_written(tmp_path: Path) -> None:
    written = [Phase(name="training", detail="x"), a_step(1), Note(text="naïve\nlines")]
    log = EventLog(tmp_path / "e.jsonl")
    for event in written:
        log.write(event)
    assert list(EventTail(tmp_path / "e.jsonl").read()) == written
    assert len((tmp_path / "e.jsonl").read_text().splitlines()) == 3


def test_a_tail_gives_each_event_once_and_waits_for_whole_lines(tmp_path: Path) -> None:
    file = tmp_path / "e.jsonl"
    tail = EventTail(file)
    assert list(tail.read()) == []
    log = EventLog(file)
    log.write(a_step(1))
    whole = file.read_bytes()
    assert [event.step for event in tail.read() if isinstance(event, Step)] == [1]
    with file.open("ab") as opened:
        opened.write(whole[:20])
    assert list(tail.read()) == []
    with file.open("ab") as opened:
        opened.write(whole[20:])
    assert len(list(tail.read())) == 1
    assert list(tail.read()) == []


@pytest.mark.parametrize("line", ["", "{", "[]", "3", '{"kind": "unheard-of"}', '{"no": "kind"}'])
def test_lines_of_other_versions_are_passed_over(line: str) -> None:
    assert parse(line) is None


def test_fields_of_other_versions_are_passed_over() -> None:
    assert parse('{"kind": "note", "time": 1.0, "text": "x", "mood": "new"}') == Note(time=1.0, text="x")


def test_other_ranks_write_nothing() -> None:
    log = EventLog(None)
    log.write(Started(step=0, total_steps=1, steps_per_epoch=1, epochs=1, processes=2))
    log.close()


def test_every_kind_has_a_name_of_its_own() -> None:
    assert len(KINDS) == 9
    assert all(kind.kind == name for name, kind in KINDS.items())


def test_half_a_line_of_a_killed_run_does_not_swallow_the_next_event(tmp_path: Path) -> None:
    (tmp_path / "e.jsonl").write_bytes(b'{"kind": "note", "text": "whole"}\n{"kind": "no')
    log = EventLog(tmp_path / "e.jsonl")
    log.write(a_step(7))
    found = list(EventTail(tmp_path / "e.jsonl").read())
    assert [event.step for event in found if isinstance(event, Step)] == [7]
    assert len(found) == 2
