"""The demo: two job files that anyone can copy, run as any other, and what adapting gained and cost."""

from __future__ import annotations

import shutil
from pathlib import Path

from launcher.commands.demo_data import write_demo_data
from launcher.commands.train import train_job
from launcher.display.live import with_interval
from launcher.job.reading.job_file import load_job
from launcher.run.results import Result
from launcher.terminal import print_table, wide_console

EXAMPLES = Path(__file__).parent.parent / "examples"
SOURCE, TARGET = "film-reviews", "tweets"


def run_demo(folder: Path) -> None:
    """Fine-tune on film reviews, then on tweets, in `folder`; print what became of both."""
    write_demo_data(folder / "data")
    results = []
    for name in (SOURCE, TARGET):
        job_file = folder / f"{name}.yaml"
        if not job_file.exists():
            shutil.copy(EXAMPLES / job_file.name, job_file)
        job = load_job(job_file)
        results.append(Result.read(train_job(job, job_file, resume="never").result_file))
    _print_closing_table(*results)
    files = f"{folder / SOURCE}.yaml and {folder / TARGET}.yaml"
    print(f"\nThe job files are {files}: copy one and name your own data.")


def _print_closing_table(source: Result, target: Result) -> None:
    from rich.table import Table

    table = Table(title="Accuracy with 95 % interval", title_justify="left")
    table.add_column("model", no_wrap=True)
    for name in (SOURCE, TARGET):
        table.add_column(f"{name}\n{source.sets[name].samples} samples", justify="right", no_wrap=True)
    stages = [
        ("pretrained, with a new head", source, "before"),
        (f"fine-tuned on {SOURCE}", source, "after"),
        (f"then adapted to {TARGET}", target, "after"),
    ]
    for stage, result, when in stages:
        table.add_row(stage, *(_accuracy(result, name, when) for name in (SOURCE, TARGET)))
    print_table(table, wide_console())
    gain, cost = (
        100 * (target.sets[name].after["accuracy"] - source.sets[name].after["accuracy"]) for name in (TARGET, SOURCE)
    )
    print(f"Adapting changed accuracy by {gain:+.1f} points on {TARGET} and by {cost:+.1f} points on {SOURCE}.")


def _accuracy(result: Result, name: str, when: str) -> str:
    found = result.sets[name]
    metrics, intervals = (
        (found.before, found.before_interval) if when == "before" else (found.after, found.after_interval)
    )
    return with_interval(metrics["accuracy"], intervals["accuracy"])
