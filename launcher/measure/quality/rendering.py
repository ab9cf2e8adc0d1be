"""The report as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

from launcher.measure.quality.advice import Finding, levels
from launcher.measure.quality.report import Report
from launcher.terminal import print_table, wide_console

MARKS = {"mend": "[bold red]mend[/]", "look": "[yellow]look[/]", "good": "[green]good[/]", "left out": "[dim]—[/]"}


def as_json(report: Report, lines: Sequence[Finding], fit: bool) -> str:
    """The whole report, including all row numbers."""
    plain = {"fit": fit, "findings": [vars(line) for line in lines], **report.as_dict()}
    return json.dumps(plain, indent=2, ensure_ascii=False)


def print_report(report: Report, lines: Sequence[Finding], fit: bool) -> None:
    """Print the findings, the gravest level first, and a concluding sentence."""
    from rich.markup import escape
    from rich.table import Table

    sizes = ", ".join(f"{one.name} {one.samples}" for one in report.sets)
    table = Table(title=f"Samples: {sizes}", title_justify="left", show_lines=False)
    table.add_column("", no_wrap=True)
    table.add_column("what", max_width=24)
    table.add_column("found")
    table.add_column("what to do")
    for line in lines:
        table.add_row(MARKS[line.level], *(escape(text) for text in (line.subject, line.found, line.advice)))
    console = wide_console()
    print_table(table, console)
    for text in (text for found in report.labels for text in found.lines()):
        console.print(text, markup=False, highlight=False)
    counts = levels(lines)
    verdict = "fit for training" if fit else "not fit for training until that is fixed"
    console.print(
        f"{counts['mend']} to mend, {counts['look']} to look at, {counts['good']} good: {verdict}", highlight=False
    )
