"""Sentences of CoNLL files: one word per line with its columns, and a blank line after each sentence.

A CoNLL-U file has ten named columns, comments, and lines for multiword tokens and empty nodes. It is recognised by its
suffix, `.conllu` (`.conllup` if it names its columns), or by its contents. In any other file the word is the first
column and the label the last.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from launcher.data.decoding import opened_text
from launcher.data.rows import missing_column
from launcher.errors import DataError

DOCUMENT = "-DOCSTART-"
"""The word that begins a document in the files of CoNLL 2003; it is not a sentence."""
NO_WORDS = ("#", DOCUMENT)
"""Beginnings of lines that may not be words."""
CONLLU = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
CONLLU_SUFFIXES = (".conllu", ".conllup")
DEFAULTS = {"words": "FORM", "label": "UPOS"}
"""The columns of a CoNLL-U file that are read if the job names none."""
ALWAYS_THERE = ("UPOS", "XPOS", "HEAD", "DEPREL")
"""Columns in which `_` means a missing value; in other columns it is a value, such as no features."""
NAMES = re.compile(r"#\s*global\.columns\s*=\s*(.+)")
COMMENT = re.compile(
    r"#\s*[\w.:-]+\s*=(\s|$)|#\s*(newdoc|newpar|sent_id|id|begin document|end document)\b", re.IGNORECASE
)
"""Pattern of a comment before a sentence. Only its form distinguishes it from a word, since `#` can be a word."""
WORD_ID, OTHER_ID = re.compile(r"\d+"), re.compile(r"\d+[-.]\d+")

Line = tuple[int, str]
"""A line's number in the file, from 1, and its text without the line end."""


def read_conll(path: Path, encoding: str, columns: Mapping[str, str]) -> Iterator[tuple[int, dict[str, object]]]:
    """Number and values by role of each sentence: `words` and `label` as lists. Raises DataError with the sentence."""
    strange = [role for role in columns if role not in DEFAULTS]
    if strange:
        raise DataError(path, f"a CoNLL file holds words and labels, not a column {columns[strange[0]]!r}")
    number = 0
    with opened_text(path, encoding) as file:
        blocks = _blocks(file)
        beginning = _beginning(blocks)
        read = _reader(path, beginning, columns)
        for number, values in read.sentences(chain(beginning, blocks)):
            yield number, {role: values[role] for role in columns}
    if number == 0:
        raise DataError(path, "the file is empty; it needs one word per line, and a blank line after each sentence")


def _blocks(file: Iterator[str]) -> Iterator[list[Line]]:
    """The lines between blank lines."""
    block: list[Line] = []
    for number, line in enumerate(file, start=1):
        text = line.strip("\r\n")
        if text.strip(" \t"):
            block.append((number, text))
        elif block:
            yield block
            block = []
    if block:
        yield block


def _beginning(blocks: Iterator[list[Line]]) -> list[list[Line]]:
    """The first blocks, up to one with a line that is certainly a word."""
    beginning: list[list[Line]] = []
    for block in blocks:
        beginning.append(block)
        if not all(text.startswith(NO_WORDS) for _, text in block):
            break
    return beginning


def _reader(path: Path, beginning: list[list[Line]], columns: Mapping[str, str]) -> PlainReader | UniversalReader:
    """The reader for a file, by its suffix or its first lines. Raises DataError for missing columns."""
    lines = [text for block in beginning for _, text in block]
    named = next((found.group(1).split() for text in lines if (found := NAMES.match(text))), None)
    if named is None and path.suffix.lower() not in CONLLU_SUFFIXES and not _looks_universal(lines):
        return PlainReader.of(path, lines, columns)
    return UniversalReader.of(path, tuple(name.upper() for name in named or CONLLU), columns)


def _looks_universal(lines: list[str]) -> bool:
    words = [text.split("\t") for text in lines if not text.startswith("#")]
    return bool(words) and all(
        len(fields) == len(CONLLU) and (WORD_ID.fullmatch(fields[0]) or OTHER_ID.fullmatch(fields[0]))
        for fields in words
    )


@dataclass(frozen=True)
class UniversalReader:
    """Reads CoNLL-U.

    names: the file's column names, in capitals
    places: role to the column's index
    """

    path: Path
    names: tuple[str, ...]
    places: Mapping[str, int]

    @classmethod
    def of(cls, path: Path, names: tuple[str, ...], columns: Mapping[str, str]) -> UniversalReader:
        """Raises DataError for a missing column."""
        places = {}
        for role, name in columns.items():
            wanted = DEFAULTS[role] if name == role else name.upper()
            if wanted not in names:
                raise missing_column(path, wanted.lower(), [one.lower() for one in names])
            places[role] = names.index(wanted)
        return cls(path, names, places)

    def sentences(self, blocks: Iterator[list[Line]]) -> Iterator[tuple[int, dict[str, list[str]]]]:
        """Number and values by role of each sentence, without multiword tokens, empty nodes and comments."""
        number = 0
        for block in blocks:
            lines = [line for line in block if not self._is_comment(line[1])]
            if not lines:
                continue
            number += 1
            words = [fields for line in lines if (fields := self._fields(line, number)) is not None]
            if not words:
                raise DataError(self.path, f"the sentence of line {lines[0][0]} has no words", number)
            yield number, {role: [self._value(fields, place, number) for fields in words]
                           for role, place in self.places.items()}  # fmt: skip

    def _is_comment(self, text: str) -> bool:
        return text.startswith("#") and ("ID" in self.names or len(text.split("\t")) != len(self.names))

    def _fields(self, line: Line, sentence: int) -> list[str] | None:
        """The columns of a word; None for a line that is not a word."""
        fields = [field.strip() for field in line[1].split("\t")]
        if len(fields) != len(self.names):
            fault = f"line {line[0]} has {len(fields)} columns where CoNLL-U has {len(self.names)}, separated by tabs"
            raise DataError(self.path, fault, sentence)
        if "ID" in self.names:
            found = fields[self.names.index("ID")]
            if OTHER_ID.fullmatch(found):
                return None
            if not WORD_ID.fullmatch(found):
                fault = f"line {line[0]} begins with {found[:40]!r}, which is neither a word number nor a range (1-2)"
                raise DataError(self.path, fault, sentence)
        return fields

    def _value(self, fields: list[str], place: int, sentence: int) -> str:
        value, name = fields[place], self.names[place]
        if not value or (value == "_" and name in ALWAYS_THERE):
            word = fields[self.places.get("words", self.names.index("FORM") if "FORM" in self.names else 0)]
            named = ", ".join(one.lower() for one in self.names)
            fault = f"the word {word!r} has no {name.lower()}; name another column ({named})"
            raise DataError(self.path, fault, sentence)
        return value


@dataclass(frozen=True)
class PlainReader:
    """Reads a file whose columns have no names.

    separator: the text between columns
    width: number of columns of the file's first word
    places: role to the column's place
    """

    path: Path
    separator: str
    width: int
    places: Mapping[str, int]

    @classmethod
    def of(cls, path: Path, lines: list[str], columns: Mapping[str, str]) -> PlainReader:
        """Columns are named by their number, from 1. Raises DataError for another name."""
        places = {"words": 0, "label": -1}
        for role, name in columns.items():
            if name.isascii() and name.isdigit() and int(name) > 0:
                places[role] = int(name) - 1
            elif name != role:
                ordinary = "the first" if role == "words" else "the last"
                fault = f"the columns of this file have no names, so there is no {name!r}"
                raise DataError(
                    path, f"{fault}; give the number of the column (`{role}: 2`), or leave it out to read {ordinary}"
                )
        word = next((text for text in lines if not text.startswith(NO_WORDS)), "")
        separator = "\t" if "\t" in word else " "
        return cls(path, separator, len(_split(word, separator)), {role: places[role] for role in columns})

    def sentences(self, blocks: Iterator[list[Line]]) -> Iterator[tuple[int, dict[str, list[str]]]]:
        """Number and values by role of each."""
        number = 0
        for block in blocks:
            for lines in self._apart(block):
                number += 1
                yield number, self._sentence(lines, number)

    def _apart(self, block: list[Line]) -> Iterator[list[Line]]:
        """The sentences of a block, without leading comments, split where a document begins."""
        sentence: list[Line] = []
        for line in block:
            if not (self._is_comment(line[1]) or _split(line[1], " ")[0] == DOCUMENT):
                sentence.append(line)
            elif sentence:
                yield sentence
                sentence = []
        if sentence:
            yield sentence

    def _is_comment(self, text: str) -> bool:
        """Whether a line is a comment, by its text or by its number of columns."""
        if not text.startswith("#"):
            return False
        is_apart = re.match(r"#(\s|$)", text) is not None and len(_split(text, self.separator)) != self.width
        return is_apart or COMMENT.match(text) is not None

    def _sentence(self, lines: list[Line], number: int) -> dict[str, list[str]]:
        words = [(line, _split(line[1], self.separator)) for line in lines]
        width, last = len(words[0][1]), max(self.places.values(), default=0)
        for line, fields in words:
            shown = f"line {line[0]}, {line[1][:40]!r},"
            if "label" in self.places and len(fields) < 2:
                between = "a tab" if self.separator == "\t" else "a space"
                fault = f"the word {fields[0]!r} has no label; separate word and label by {between}"
                raise DataError(self.path, fault, number)
            if len(fields) != width:
                advice = (
                    "give each word of a sentence the same number; if words contain spaces, separate columns by tabs"
                )
                fault = f"{shown} has {len(fields)} columns where line {lines[0][0]} has {width}; {advice}"
                raise DataError(self.path, fault, number)
            if last >= width:
                raise DataError(self.path, f"{shown} has {width} columns, and column {last + 1} is requested", number)
            if not all(fields[place] for place in self.places.values()):
                raise DataError(self.path, f"{shown} has an empty word or label; fill it, or remove the tab", number)
        return {role: [fields[place] for _, fields in words] for role, place in self.places.items()}


def _split(text: str, separator: str) -> list[str]:
    """The columns of a line. Other kinds of white space may be part of a word."""
    if separator == "\t":
        return [field.strip(" ") for field in text.split("\t")]
    return re.split(r"[ \t]+", text.strip(" \t"))
