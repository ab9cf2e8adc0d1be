"""Where the time of a run went."""

from __future__ import annotations

import pytest

from launcher.display.goodput import Goodput
from launcher.run.events import Began, Event, Phase, Step


def began(time: float, cause: str = "first") -> Event:
    return Began(time=time, start=1, cause=cause, step=0)


def phase(time: float, name: str) -> Event:
    return Phase(time=time, name=name)


def step(time: float, number: int, seconds: float = 1.0) -> Event:
    return Step(
        time=time, step=number, epoch=0, loss=1.0, lr=1.0, gradient_norm=1.0, samples=1, tokens=1, seconds=seconds,
        memory=1,
    )  # fmt: skip


def spent(*events: Event) -> dict[str, float]:
    return {kind: seconds for kind, seconds in Goodput.of(events).seconds.items() if seconds}


WHOLE = (began(0), phase(2, "preparing"), phase(5, "loading"), phase(6, "evaluating"), phase(8, "training"))


def test_each_phase_lasts_until_the_next() -> None:
    events = (*WHOLE, step(10, 1), step(12, 2), phase(12, "saving"), phase(13, "training"), phase(15, "done"))
    assert spent(*events) == {"preparation": 3, "loading": 3, "evaluating": 2, "training": 6, "saving": 1}
    assert Goodput.of(events).goodput == pytest.approx(6 / 15)


def test_steps_that_are_made_again_count_once() -> None:
    events = (*WHOLE, step(10, 1, 2.0), step(12, 2, 2.0), began(13, "restart"), phase(15, "training"), step(17, 2, 2.0))
    assert spent(*events) == {
        "preparation": 3,
        "loading": 3,
        "evaluating": 2,
        "training": 4,
        "repeated": 2,
        "restarting": 3,
    }


def test_nobody_is_charged_for_the_time_between_a_stop_and_the_next_start() -> None:
    events = (*WHOLE, step(10, 1, 2.0), phase(10, "stopped"), began(110, "resumed"), phase(112, "training"))
    assert spent(*events)["idle"] == 100
    assert Goodput.of(events).goodput == pytest.approx(2 / 12)


def test_a_start_that_died_is_idle_until_a_person_comes() -> None:
    assert spent(began(0), phase(1, "training"), step(3, 1, 2.0), began(50, "resumed"))["idle"] == 47


def test_a_run_without_events_has_no_goodput() -> None:
    assert Goodput.of([]).goodput is None
    assert "no work has been recorded" in str(Goodput.of([]))
