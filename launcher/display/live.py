"""What a run shows while it runs: a live view on a terminal, plain lines elsewhere. Its source is the events."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, TextIO

from launcher.display.notebook import NotebookLive
from launcher.run.events import Evaluated, Event, EventTail, Note, Phase, Progress, Saved, Started, Step
from launcher.run.folder import RunFolder
from launcher.terminal import print_table, wide_console

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from launcher.measure.compare.verdict import Verdict
    from launcher.run.results import SetResult

SECONDS_BETWEEN_LINES = 5.0
WIDE = 110
"""Columns of a terminal that hold the interval of each change too."""
LABEL = 10
"""Columns of what stands before a bar."""
QUIET = ("training", "saving")
"""Phases that other lines tell of."""


class Display:
    """Shows the events of one run; `refresh` is called a few times a second until `close`.

    terminal: where to; standard output where None
    quietly: take events in and show nothing
    start: where in the file of events; at what is new from now on where None
    """

    def __init__(
        self, folder: RunFolder, terminal: TextIO | None = None, quietly: bool = False, start: int | None = None
    ) -> None:
        from rich.console import Console

        if start is None:
            start = folder.events_file.stat().st_size if folder.events_file.exists() else 0
        self._tail = EventTail(folder.events_file, start)
        console = Console(file=terminal, quiet=quietly)
        moves = not quietly and (console.is_terminal or console.is_jupyter)
        self._view = _LiveView(console) if moves else _PlainView(console)

    def refresh(self) -> None:
        """Take in what is new."""
        for event in self._tail.read():
            self._view.take(event)
        self._view.refresh()

    def close(self) -> None:
        """Take in the last and leave the terminal as it should be."""
        self.refresh()
        self._view.close()


def follow(folder: RunFolder, done: threading.Event, terminal: TextIO) -> None:
    """Show a run from a thread of its own process until `done`."""
    display = Display(folder, terminal)
    while not done.wait(0.2):
        display.refresh()
    display.close()


class _State:
    """What is known so far."""

    def __init__(self) -> None:
        self.phase, self.since = "starting", time.time()
        self.progress: Progress | None = None
        self.started: Started | None = None
        self.recent: deque[Step] = deque(maxlen=20)
        self.metrics = ""

    def take(self, event: Event) -> None:
        if isinstance(event, Phase):
            self.phase, self.since = f"{event.name} {event.detail}".strip(), event.time
            self.progress = None
        elif isinstance(event, Progress):
            self.progress = event
        elif isinstance(event, Started):
            self.started = event
        elif isinstance(event, Step):
            self.recent.append(event)
        elif isinstance(event, Evaluated):
            self.metrics = evaluation_line(event)

    def step_line(self) -> str:
        """The last steps in one line."""
        last, started = self.recent[-1], self.started
        seconds = sum(step.seconds for step in self.recent)
        losses = sum(step.loss for step in self.recent) / len(self.recent)
        counted_in = "samples" if started is None or started.counted_in == "tokens" else started.counted_in
        speed = f"{sum(s.samples for s in self.recent) / seconds:.1f} {counted_in}/s"
        if any(step.tokens for step in self.recent):
            speed += f"  {sum(s.tokens for s in self.recent) / seconds:.0f} tokens/s"
        line = f"loss {losses:.4f}  lr {last.lr:.2e}  {speed}  {last.memory / 2**30:.2f} GiB"
        if started is None:
            return f"step {last.step}  {line}"
        left = (started.total_steps - last.step) * seconds / len(self.recent)
        epoch = f"epoch {last.epoch + 1}/{started.epochs}  step {last.step}/{started.total_steps}"
        return f"{epoch}  {line}  {duration(left)} left"


class _PlainView:
    """A line a phase, an evaluation and a note; the steps of training speak every few seconds."""

    def __init__(self, console: Console) -> None:
        self._console, self._state, self._said = console, _State(), 0.0

    def take(self, event: Event) -> None:
        self._state.take(event)
        if isinstance(event, Phase):
            if event.name not in QUIET:
                self._say(self._state.phase)
        elif isinstance(event, Note):
            self._say(event.text)
        elif isinstance(event, Evaluated):
            self._say(self._state.metrics)
        elif isinstance(event, Saved):
            self._say(f"saved step {event.step} in {event.seconds:.1f} s")
        elif isinstance(event, Step):
            is_last = self._state.started is not None and event.step == self._state.started.total_steps
            if is_last or event.time - self._said >= SECONDS_BETWEEN_LINES:
                self._said = event.time
                self._say(self._state.step_line())

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def refresh(self) -> None:
        """Nothing moves on paper."""

    def close(self) -> None:
        """Nothing to put back."""


class _LiveView:
    """Bars and figures that change in place, with what is worth keeping above them."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        self._console, self._state = console, _State()
        self._live: Live | NotebookLive
        if console.is_jupyter:
            self._live = NotebookLive()
        else:
            self._live = Live(console=console, auto_refresh=False, transient=True)
            self._live.start()

    def take(self, event: Event) -> None:
        self._state.take(event)
        if isinstance(event, Note):
            self._console.print(event.text, highlight=False, markup=False)
        elif isinstance(event, Evaluated):
            self._console.print(self._state.metrics, highlight=False, markup=False)

    def refresh(self) -> None:
        self._live.update(self._render(), refresh=True)

    def close(self) -> None:
        self._live.stop()

    def _render(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        state = self._state
        parts: list[RenderableType] = [Text(f"{state.phase}  {duration(time.time() - state.since)}", style="bold")]
        if state.progress is not None:
            done = state.progress
            parts.append(_bar(state.phase.partition(" ")[0], done.total or None, done.done))
            parts.append(Text(f"{done.done} of {done.total or '?'} {done.unit}"))
        elif state.recent and state.started is not None:
            step, started = state.recent[-1].step, state.started
            in_epoch = (step - 1) % started.steps_per_epoch + 1
            parts.append(_bar("training", started.total_steps, step))
            parts.append(_bar(f"epoch {(step - 1) // started.steps_per_epoch + 1}", started.steps_per_epoch, in_epoch))
            parts.append(Text(state.step_line()))
        return Group(*parts)


def _bar(label: str, total: int | None, done: int) -> RenderableType:
    """What it measures and how far that is, on a line of its own, which rich's bar does not end by itself."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    line = Table.grid(padding=(0, 1))
    line.add_column(width=LABEL, no_wrap=True)
    line.add_column(width=60)
    line.add_row(label, ProgressBar(total=total, completed=done, width=60))
    return line


def evaluation_line(event: Evaluated) -> str:
    """Each set's metrics and how many samples they cover, in one line."""
    sets = [
        f"{name} ({event.samples[name]} samples): "
        + ", ".join(f"{metric} {value:.4f}" for metric, value in metrics.items())
        for name, metrics in event.metrics.items()
    ]
    return f"step {event.step}  " + "; ".join(sets)


def with_interval(value: float, ends: tuple[float, float]) -> str:
    """A metric and the ends of its interval."""
    return f"{value:.3f} ({ends[0]:.3f}–{ends[1]:.3f})"


def print_outcome(folder: RunFolder, terminal: TextIO | None = None) -> None:
    """The tables of before and after, where the model is, where the time went, and the verdict."""
    from launcher.display.goodput import Goodput
    from launcher.run.results import Result

    result, console = Result.read(folder.result_file), wide_console(terminal)
    for name, found in result.sets.items():
        print_table(_set_table(name, found, console.width), console)
    if result.verdict is not None and len(result.verdict.comparisons) > 1:
        print_table(_comparison_table(result.verdict), console)
    console.print(
        f"{result.steps} steps, {duration(result.seconds)} of training; model: {result.model}",
        highlight=False,
        soft_wrap=True,
    )
    if result.selector is not None:
        console.print(
            f"the checkpoint was selected by {result.selector}", highlight=False, markup=False, soft_wrap=True
        )
    ledger = Goodput.of(EventTail(folder.events_file).read())
    console.print(str(ledger), highlight=False, soft_wrap=True)
    if result.verdict is not None:
        console.print(f"verdict: {result.verdict}", highlight=False, markup=False, soft_wrap=True)


def _set_table(name: str, found: SetResult, width: int) -> Table:
    """One set before and after, and what other models make of it."""
    from rich.table import Table

    title = f"{name}: {found.samples} samples, each counted once, with 95 % intervals"
    table = Table(title=title, title_justify="left")
    for heading in ("metric", "before", "after", "change", *found.others):
        table.add_column(heading, justify="left" if heading == "metric" else "right", overflow="fold")
    for metric in found.after:
        before, after = found.before[metric], found.after[metric]
        ends = found.change_interval.get(metric) if width >= WIDE else None
        table.add_row(
            metric,
            with_interval(before, found.before_interval[metric]),
            with_interval(after, found.after_interval[metric]),
            f"{after - before:+.3f}" + (f" ({ends[0]:+.3f} to {ends[1]:+.3f})" if ends else ""),
            *(f"{others[metric]:.3f}" if metric in others else "" for others in found.others.values()),
        )
    for row, key in (("calibration error", "error"), ("… scaled", "scaled_error")):
        values = [found.calibration.get(when, {}).get(key) for when in ("before", "result")]
        if values[0] is not None and values[1] is not None:
            table.add_row(row, *(f"{value:.3f}" for value in values), f"{values[1] - values[0]:+.3f}")
    return table


def _comparison_table(verdict: Verdict) -> Table:
    """The deciding metric on each set against each other model."""
    from rich.table import Table

    table = Table(title=f"{verdict.metric} of the result against other models", title_justify="left")
    for heading in ("set", "against", "theirs", "its", "change, 95 %", "p, Holm", ""):
        is_text = heading in ("set", "against", "")
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=not is_text, overflow="fold")
    for found in verdict.comparisons:
        table.add_row(
            found.set,
            found.candidate,
            f"{found.old:.3f}",
            f"{found.new:.3f}",
            f"{found.low:+.3f} to {found.high:+.3f}",
            f"{found.corrected_p:.3f}" if found.corrected_p >= 0.001 else "<0.001",
            "" if found.role == "shown" else found.role,
        )
    return table


def duration(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
