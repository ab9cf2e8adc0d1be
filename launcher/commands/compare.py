"""`adaptrun compare`: runs side by side, on the screen or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from string import ascii_lowercase
from typing import TYPE_CHECKING

from launcher.display.comparison import Comparison, Rows, RunMetric
from launcher.display.live import duration, with_interval
from launcher.errors import RequestError
from launcher.run.folder import find_run
from launcher.terminal import print_table, wide_console

if TYPE_CHECKING:
    from rich.table import Table


def compare_runs(paths: Sequence[Path], as_json: bool) -> None:
    """Print what differs between the runs. Raises RequestError for a path that is no run."""
    if len(paths) < 2:
        raise RequestError("name two or more runs to compare: adaptrun compare RUN RUN…")
    comparison = Comparison.of([find_run(path) for path in paths])
    if as_json:
        print(json.dumps(_values(comparison), indent=2))
    else:
        _print(comparison, [str(path) for path in paths])


def _values(comparison: Comparison) -> dict[str, object]:
    known = ("name", "path", "state", "steps", "total_steps", "seconds", "damage")
    values = asdict(comparison)
    values["runs"] = [{name: run[name] for name in known} for run in values["runs"]]
    return values


def _print(comparison: Comparison, paths: Sequence[str]) -> None:
    from rich.table import Table

    console, letters = wide_console(), [_letter(index) for index in range(len(paths))]
    table = Table("run", "folder", "state", "steps", "training", title="Runs", title_justify="left")
    table.columns[1].overflow = "fold"
    for letter, path, run in zip(letters, paths, comparison.runs, strict=True):
        table.add_row(letter, path, run.state, f"{run.steps} of {run.total_steps or '?'}", duration(run.seconds))
    print_table(table, console)
    for letter, run in zip(letters, comparison.runs, strict=True):
        if run.damage:
            console.print(f"run {letter} is damaged: {'; '.join(run.damage)}", highlight=False, markup=False)
    for section in ("job", "data", "plan", "environment"):
        rows: Rows = getattr(comparison, section)
        if rows:
            print_table(_differences(section, rows, letters), console)
        else:
            console.print(f"{section}: no difference", highlight=False)
    for name, metrics in comparison.metrics.items():
        table = Table("metric", "run", "before", "after", f"against {letters[0]}", title_justify="left")
        table.title = f"{name}, in brackets the 95 % interval"
        for metric, row in metrics.items():
            for index, measured in enumerate(row):
                table.add_row("" if index else metric, letters[index], *_cells(measured))
        print_table(table, console)


def _letter(index: int) -> str:
    """a, b, …, z, a1, b1, …"""
    return f"{ascii_lowercase[index % 26]}{index // 26 or ''}"


def _differences(section: str, rows: Rows, letters: Sequence[str]) -> Table:
    """Long values take several lines, since their ends may be what differs."""
    from rich.table import Table

    table = Table(title=f"What differs in {section}", title_justify="left")
    for heading in ("", *letters):
        table.add_column(heading, overflow="fold")
    for name, values in rows.items():
        table.add_row(name, *("—" if value is None else str(value) for value in values))
    return table


def _cells(measured: RunMetric | None) -> tuple[str, str, str]:
    if measured is None:
        return "—", "—", ""
    after = _shown(measured.after, measured.after_interval)
    if measured.after is not None and measured.after_interval is None:
        after += f" at step {measured.step}"
    return _shown(measured.before, measured.before_interval), after, measured.verdict or ""


def _shown(value: float | None, ends: tuple[float, float] | None) -> str:
    if value is None:
        return "—"
    return f"{value:.3f}" if ends is None else with_interval(value, ends)
