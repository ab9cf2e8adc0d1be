"""Sentences of CoNLL files: a word a line with its columns, of which the last is the label; a blank line ends one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from launcher.data.decoding import opened_text
from launcher.errors import DataError

DOCUMENT = "-DOCSTART-"
"""The word that begins a document in the files of CoNLL 2003; it is no sentence."""


def read_conll(path: Path, encoding: str, columns: Mapping[str, str]) -> Iterator[tuple[int, dict[str, object]]]:
    """Number and values by role of each sentence: `words` and `label` as lists. Raises DataError with the sentence."""
    strange = [role for role in columns if role not in ("words", "label")]
    if strange:
        raise DataError(path, f"a CoNLL file holds words and labels, and no column {columns[strange[0]]!r}")
    number = 0
    with opened_text(path, encoding) as file:
        for sentence in _sentences(file):
            number += 1
            short = next((line for line in sentence if "label" in columns and len(line) < 2), None)
            if short is not None:
                raise DataError(path, f"the word {short[0]!r} has no label beside it; separate them by a space", number)
            values: dict[str, object] = {
                "words": [line[0] for line in sentence],
                "label": [line[-1] for line in sentence],
            }
            yield number, {role: values[role] for role in columns}
    if number == 0:
        raise DataError(path, "the file is empty; it needs a word a line, and a blank line after each sentence")


def _sentences(file: Iterator[str]) -> Iterator[list[list[str]]]:
    sentence: list[list[str]] = []
    for line in file:
        fields = line.split()
        if fields and fields[0] != DOCUMENT:
            sentence.append(fields)
        elif sentence:
            yield sentence
            sentence = []
    if sentence:
        yield sentence
