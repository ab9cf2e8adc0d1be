"""What the live view draws."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from launcher.display.live import Display
from launcher.run.events import Event, EventLog, Phase, Progress, Started, Step
from launcher.run.folder import RunFolder
from launcher.terminal import print_table, wide_console

STARTED = Started(step=0, total_steps=160, steps_per_epoch=8, epochs=20, processes=2)
STEP = Step(step=9, epoch=1, loss=0.5, lr=1e-3, gradient_norm=1.0, samples=8, tokens=80, seconds=0.1, memory=2**30)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("events", "bars", "last"),
    [
        (
            [Phase(name="preparing"), Progress(done=5, total=10, unit="samples")],
            ["preparing"],
            "5 of 10 samples",
        ),
        (
            [Phase(name="training"), STARTED, STEP],
            ["training", "epoch 2"],
            "epoch 2/20  step 9/160  loss 0.5000  lr 1.00e-03",
        ),
    ],
)
def test_each_bar_has_a_label_and_a_line_of_its_own(
    events: list[Event], bars: list[str], last: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    assert [line.rstrip("━╸╺").rstrip() for line in lines[1 : 1 + len(bars)]] == bars
    assert all(len(line) == 71 for line in lines[1 : 1 + len(bars)])
    assert lines[1 + len(bars)].startswith(last)


@pytest.mark.parametrize(
    ("counted_in", "tokens", "speed"),
    [("tokens", 80, "80.0 samples/s  800 tokens/s"), ("images", 0, "80.0 images/s"), ("sounds", 0, "80.0 sounds/s")],
)
def test_speed_is_told_in_what_a_sample_is_made_of(counted_in: str, tokens: int, speed: str, tmp_path: Path) -> None:
    terminal, folder = io.StringIO(), RunFolder(tmp_path)
    display = Display(folder, terminal)
    log = EventLog(folder.events_file)
    log.write(replace(STARTED, total_steps=9, counted_in=counted_in))
    log.write(replace(STEP, tokens=tokens))
    display.close()
    (line,) = terminal.getvalue().splitlines()
    assert f"lr 1.00e-03  {speed}  1.00 GiB" in line


def test_a_table_in_a_file_cuts_no_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    words = ["a" * 70, "b" * 70, "/a/path/" + "c" * 90, "unbreakable-word"]
    table = Table("what", "found", "where", "fix")
    table.columns[0].max_width = 24
    table.columns[1].overflow = "fold"
    table.add_row(*(f"{word} and {'more ' * 40}" for word in words))
    written = io.StringIO()
    print_table(table, wide_console(written))
    assert all(word in written.getvalue() for word in words)
    assert written.getvalue().count("more") == 160
    assert "…" not in written.getvalue()
