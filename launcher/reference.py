"""The reference pages of the command line and of what a run leaves, made from the code that they describe.

python -m launcher.reference      writes all pages of docs/reference
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from inspect import cleandoc
from typing import Any, get_type_hints

from launcher.cli import app
from launcher.cluster import reference as cluster_reference
from launcher.job import reference as job_reference
from launcher.job.reference import DOCS
from launcher.measure.compare.per_sample_results import SCHEMA as PER_SAMPLE_SCHEMA
from launcher.measure.compare.verdict import Comparison, Verdict
from launcher.run.events import KINDS, Event
from launcher.run.events import SCHEMA as EVENTS_SCHEMA
from launcher.run.failure_kinds import FailureKind
from launcher.run.results import SCHEMA as RESULT_SCHEMA
from launcher.run.results import Result, SetResult

COMMANDS, RUN_FILES = "reference/command-line.md", "reference/run-files.md"

COMMANDS_HEAD = """\
# The command line

`adaptrun COMMAND --help` prints the same. `make docs` writes this page from the commands themselves.

Exit codes: 0 done, 1 failed, 2 invalid request and nothing was trained, 75 stopped and resumable.
"""

RUN_FILES_HEAD = f"""\
# Events and result files

What a run leaves for other programs to read. `make docs` writes this page from the classes that write the files.
[The design](../design/index.md#data-flows-one-way) lists all files of a run's folder.

| file | what it is | version of its schema |
|---|---|---|
| `metrics.jsonl` | the events of the run, one JSON object a line | `schema` in each event `began`: {EVENTS_SCHEMA} |
| `result.json` | the result of the run | `schema`: {RESULT_SCHEMA}; a file without one has 1 |
| `outcomes/SET/CANDIDATE.parquet` | the per-sample results of one model on one validation set | `schema` in the \
metadata `adaptrun`: {PER_SAMPLE_SCHEMA} |
| `failure.txt` | the first failure, for people; only after a failure | none |

The version increases when a field changes its meaning or its name. New fields and new kinds of events may be added
without a new version, so readers should skip unknown ones.

"""

OUTCOMES = """\
## outcomes/SET/CANDIDATE.parquet

One row per sample, in the order of the rows of the set. The column `row` is counted from 1; the other columns are the
per-sample values that the metrics of the task are computed from, as float64. Candidates are `before` (the pretrained
model), `result`, `baseline`, and the names in `verdict.compare`. The metadata `adaptrun` of the file is a JSON object:
`data` and `model` say what was evaluated, `hash` covers the values, `schema` is the version.
"""


def command_line() -> str:
    """The page of the commands."""
    from typer.main import get_command

    commands = get_command(app).commands  # type: ignore[attr-defined]
    index = [f"- [`adaptrun {name}`](#adaptrun-{name}): {_help(command)}" for name, command in commands.items()]
    sections = [line for name, command in commands.items() for line in _command(name, command)]
    return "\n".join([COMMANDS_HEAD, *index, *sections]) + "\n"


def run_files() -> str:
    """The page of events and result files."""
    events = [line for kind, event in KINDS.items() for line in _record(f"`{kind}`", event, "###")]
    kinds = ", ".join(f"`{kind}`" for kind in FailureKind)
    page = [
        RUN_FILES_HEAD + "## metrics.jsonl",
        "",
        "Each event has `kind` and `time`, in seconds since the epoch. Steps that are repeated after a resume are",
        "written again: of two events of the same step the later one is valid.",
        *events,
        *_record("result.json", Result, "##", leave_out=("run",)),
        *_record("Each of `sets`", SetResult, "###"),
        *_record("`verdict`", Verdict, "###"),
        *_record("Each of `verdict.comparisons`", Comparison, "###"),
        "",
        OUTCOMES,
        "## failure.txt",
        "",
        "Which rank failed first, on which host and when; its error; the kind of the failure; the last step; its",
        "traceback; how the other ranks ended; what to do. Kinds:",
        f"{kinds}.",
    ]
    return "\n".join(page) + "\n"


def _command(name: str, command: Any) -> Iterator[str]:
    context = command.context_class(command, info_name=name)
    entries = [(one.param_type_name, *one.get_help_record(context)) for one in command.params]
    arguments = [spelling.partition(" <")[0] for kind, spelling, _ in entries if kind == "argument"]
    options = ["[OPTIONS]"] if len(entries) > len(arguments) else []
    yield from ("", f"## adaptrun {name}", "", _help(command), "")
    yield f"    {' '.join(['adaptrun', name, *arguments, *options])}"
    if entries:
        yield from ("", "| argument or option | what it does |", "|---|---|")
    for _, spelling, text in entries:
        yield f"| `{_cell(spelling)}` | {_cell(text)} |"


def _help(command: Any) -> str:
    return " ".join((command.help or "").split())


def _record(title: str, record: type[Any], level: str, leave_out: Sequence[str] = ()) -> Iterator[str]:
    """A class that is written as JSON: what it is, and a row a field with its type and what its docstring says."""
    summary, descriptions = _docstring(record)
    yield from ("", f"{level} {title}", "", summary, "", "| field | type | what it is |", "|---|---|---|")
    inherited = {field.name for field in fields(Event)} if issubclass(record, Event) else set()
    hints = get_type_hints(record)
    for field in fields(record):
        if field.name not in (*inherited, *leave_out):
            yield f"| `{field.name}` | {_type(hints[field.name])} | {_cell(descriptions.get(field.name, ''))} |"


def _docstring(record: type[Any]) -> tuple[str, dict[str, str]]:
    """The first paragraph, and what the others say of fields: `name, other: text`, with an indented continuation."""
    summary, _, rest = cleandoc(record.__doc__ or "").partition("\n\n")
    descriptions: dict[str, str] = {}
    for names, text in re.findall(
        r"(?:^|(?<=; ))(\w+(?:, \w+)*): ((?:[^;\n]|;(?! \w+: )|\n(?=\s))+)", rest, re.MULTILINE
    ):
        descriptions |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return " ".join(summary.split()), descriptions


def _type(hint: Any) -> str:
    """As it is written in code, without the modules that names come from."""
    return f"`{_cell(hint.__name__ if isinstance(hint, type) else re.sub(r'[a-z_]+[.]', '', str(hint)))}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> None:
    """Write all pages of the reference."""
    pages = {
        job_reference.PAGE: job_reference.page,
        job_reference.SCHEMA: job_reference.schema,
        cluster_reference.PAGE: cluster_reference.page,
        COMMANDS: command_line,
        RUN_FILES: run_files,
    }
    for place, written in pages.items():
        (DOCS / place).write_text(written(), encoding="utf-8")


if __name__ == "__main__":
    main()
