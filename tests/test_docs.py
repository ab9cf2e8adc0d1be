"""What the pages say exists, exists."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from launcher.run.failure_kinds import FailureKind

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]
OF_SITE = sorted((REPOSITORY / "docs").rglob("*.md"))
LINK = re.compile(r"\[[^\]]*\]\(([^)#]+)\)")
CODE_PATH = re.compile(r"`((?:launcher|models|tests|benchmarks|docs|examples|slurm|ds_configs)/[\w./-]+)`")
COMMAND = re.compile(r"\badaptrun ([a-z]+(?:-[a-z]+)*)\b")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    lost = [link for link in LINK.findall(text) if "://" not in link and not (page.parent / link).exists()]
    lost += [path for path in CODE_PATH.findall(text) if "NAME" not in path and not (REPOSITORY / path).exists()]
    assert not lost


def test_the_readme_names_only_commands_that_there_are() -> None:
    from typer.main import get_command

    from launcher.cli import app

    known = set(get_command(app).commands)  # type: ignore[attr-defined]
    shown = "\n".join(re.findall(r"^    .*$|`[^`]*`", (REPOSITORY / "README.md").read_text(), re.MULTILINE))
    assert set(COMMAND.findall(shown)) <= known
    assert known <= set(COMMAND.findall(shown)), "a command that the README does not show"


def test_help_describes_every_command_and_each_of_its_options() -> None:
    from typer.main import get_command

    from launcher.cli import app

    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        assert command.help, name
        undescribed = [option.name for option in command.params if not option.help]
        assert not undescribed, f"{name}: {undescribed}"


def test_the_makefile_has_the_targets_that_the_pages_name() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"`?make ([a-z-]+)`", page.read_text())}
    assert named <= targets


def test_no_line_of_a_page_is_too_long_to_review() -> None:
    for page in PAGES:
        if page.parent.name != "reference":  # made from the code
            assert all(len(line) <= 130 or line.startswith("|") for line in page.read_text().splitlines()), page


def test_every_page_has_its_place_on_the_site() -> None:
    def pages_in(nav: object) -> Iterator[str]:
        if isinstance(nav, str):
            yield nav
        else:
            for below in nav.values() if isinstance(nav, dict) else nav:  # type: ignore[attr-defined]
                yield from pages_in(below)

    site = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())
    placed = sorted(pages_in(site["nav"]))
    assert placed == sorted(str(page.relative_to(REPOSITORY / "docs")) for page in OF_SITE)
    assert site["strict"]
    assert site["theme"]["font"] is False, "the site would ask for fonts from elsewhere"


def test_every_kind_of_failure_has_its_row_in_troubleshooting() -> None:
    page = (REPOSITORY / "docs/troubleshooting/index.md").read_text()
    rows = dict(re.findall(r"^\| `([a-zA-Z ]+)` \| (yes|no)", page.partition("## Usual messages")[0], re.MULTILINE))
    restarting = {kind for kind in FailureKind if kind.may_pass} | {FailureKind.MEMORY}
    assert rows == {str(kind): "yes" if kind in restarting else "no" for kind in FailureKind}


def test_every_tracked_page_is_looked_at() -> None:
    tracked = subprocess.run(["git", "ls-files", "*.md"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert len(PAGES) >= len([name for name in tracked.stdout.split() if name.startswith("docs/")])
