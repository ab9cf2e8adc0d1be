"""Text for terminals, pipes and files of any encoding: what they have no sign for is written with those they have."""

from __future__ import annotations

import codecs
import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDTH_OF_A_FILE = 160
"""Columns of a table that is printed to no terminal."""
PLAIN = "adaptrun-plain"
"""The handler of errors that `write_plainly` registers."""
SIGNS = {
    "×": "x", "–": "-", "—": "-", "…": "...", "→": "->", "←": "<-", "≤": "<=", "≥": ">=", "±": "+-", "·": "*", "−": "-",
    "⌈": "ceil(", "⌉": ")", "∝": "~", "’": "'", "‘": "'", "“": '"', "”": '"', "Σ": "sum", "γ": "gamma", "•": "*",
}  # fmt: skip
"""What stands for the signs of our own texts; others are written as Python writes them in a string."""


def write_plainly(*streams: TextIO) -> None:
    """Let no sign that a stream's encoding lacks end the program; standard output and error where none is named."""
    codecs.register_error(PLAIN, _plain)
    for stream in streams or (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # not there where a notebook or a test took its place
        if reconfigure is not None:
            reconfigure(errors=PLAIN)


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end]
    signs = (SIGNS.get(sign) or sign.encode("ascii", "backslashreplace").decode("ascii") for sign in found)
    return "".join(signs), error.end


def print_table(table: Table, console: Console) -> None:
    """Print a table: fitted to a terminal; in a file or pipe as wide as it needs to be to keep each word whole."""
    if not console.is_terminal and not console.is_jupyter:
        keep_words_whole(table, console)
    console.print(table, crop=False)


def keep_words_whole(table: Table, console: Console) -> None:
    """Let no column be narrower than the longest word in it."""
    for column in table.columns:
        texts = [column.header, *column.cells]
        words = [console.render_str(text).plain.split() for text in texts if isinstance(text, str)]
        longest = max((len(word) for each in words for word in each), default=0)
        column.min_width = max(column.min_width or 0, longest)
        if column.max_width is not None:
            column.max_width = max(column.max_width, longest)


def wide_console(terminal: TextIO | None = None) -> Console:
    """The console of a terminal; of a file or pipe one that is as wide as tables like to be."""
    from rich.console import Console

    console = Console(file=terminal)
    if console.is_terminal or console.is_jupyter or "COLUMNS" in os.environ:
        return console
    return Console(file=terminal, width=WIDTH_OF_A_FILE)
