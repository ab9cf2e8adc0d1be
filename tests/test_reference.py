"""The reference pages of commands and of what a run leaves are made from the code as it is."""

from __future__ import annotations

from dataclasses import fields

from typer.main import get_command

from launcher import reference
from launcher.cli import app
from launcher.measure.compare.verdict import Comparison, Verdict
from launcher.run.events import KINDS
from launcher.run.results import Result, SetResult


def test_the_page_of_commands_is_current_and_describes_every_option() -> None:
    page = reference.command_line()
    assert (reference.DOCS / reference.COMMANDS).read_text() == page, "run: make docs"
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        section = page.partition(f"\n## adaptrun {name}\n")[2].partition("\n## ")[0]
        assert command.help.split(".")[0] in section
        for option in command.params:
            assert option.param_type_name == "argument" or option.opts[0] in section, f"{name} {option.opts}"


def test_the_page_of_what_a_run_leaves_is_current_and_names_every_field() -> None:
    page = reference.run_files()
    assert (reference.DOCS / reference.RUN_FILES).read_text() == page, "run: make docs"
    records = {f"`{kind}`": event for kind, event in KINDS.items()}
    records |= {"result.json": Result, "Each of `sets`": SetResult, "`verdict`": Verdict}
    records |= {"Each of `verdict.comparisons`": Comparison}
    for title, record in records.items():
        section = page.partition(f"# {title}\n")[2].partition("\n#")[0]
        written = {field.name for field in fields(record)} - {"time", "run"}
        assert written == {line.split("`")[1] for line in section.splitlines() if line.startswith("| `")}


def test_what_the_docstrings_say_of_fields_is_on_the_page() -> None:
    page = reference.run_files()
    assert "| `gradient_norm` | `float` | norm of the whole gradient before clipping |" in page
    assert "| `low` | `float` | ends of the 95 % interval of `new - old` |" in page
    assert "| `corrected_p` | `float` | by Holm, over all comparisons |" in page
