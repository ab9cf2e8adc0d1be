"""What the live view draws."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from launcher.run.display import Display
from launcher.run.events import Event, EventLog, Phase, Progress, Started, Step
from launcher.run.folder import RunFolder

STARTED = Started(step=0, total_steps=160, steps_per_epoch=8, epochs=20, processes=2)
STEP = Step(step=9, epoch=1, loss=0.5, lr=1e-3, gradient_norm=1.0, samples=8, tokens=80, seconds=0.1, memory=2**30)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("events", "bars", "last"),
    [
        ([Phase(name="preparing"), Progress(done=5, total=10, unit="samples")], 1, "5 of 10 samples"),
        ([Phase(name="training"), STARTED, STEP], 2, "epoch 2/20  step 9/160  loss 0.5000  lr 1.00e-03"),
    ],
)
def test_each_bar_and_each_text_has_a_line_of_its_own(
    events: list[Event], bars: int, last: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    terminal, folder = Terminal(), RunFolder(tmp_path)
    display = Display(folder, terminal)
    log = EventLog(folder.events_file)
    for event in events:
        log.write(event)
    display.refresh()
    drawn = Console(file=io.StringIO(), record=True, width=120)
    drawn.print(Text.from_ansi(terminal.getvalue().split("\x1b[2K")[-1]))
    lines = [line.rstrip() for line in drawn.export_text().splitlines()]
    display.close()
    assert [line.strip("━╸╺") for line in lines[1 : 1 + bars]] == [""] * bars
    assert all(len(line) == 60 for line in lines[1 : 1 + bars])
    assert lines[1 + bars].startswith(last)
