"""The jobs of an array: one for each combination of the values that `submit --each` lists, named by what differs."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from launcher.errors import RequestError
from launcher.job.reading.yaml_reader import Parsed, YamlFaults, parse_yaml

LONGEST_WORD, LONGEST_LABEL, LONGEST_NAME = 24, 50, 80
"""Characters of one value in a name, of all of them, and of a job's name."""


@dataclass(frozen=True)
class Variant:
    """One job of an array.

    sets: what it overrides, as `--set` takes it
    label: the values that tell it from the others, such as `seed-1-lr-1e-3`; empty where nothing does
    """

    sets: tuple[str, ...]
    label: str

    def name(self, job: str) -> str:
        """The name of this job of the array: the job's own, and what differs."""
        if not self.label:
            return job
        return f"{job[: LONGEST_NAME - 1 - len(self.label)]}-{self.label}"


def variants(each: Sequence[str]) -> list[Variant]:
    """`["train.seed=[1, 2]", "b=[3]"]` → the variants `seed-1` and `seed-2`; one without anything where there is none.

    Raises RequestError for what is no list, and for a path named twice.
    """
    lists: dict[str, Parsed] = {}
    for text in each:
        path, values = _list_of(text)
        if path in lists:
            raise RequestError(f"--each {path} is given twice; write one list of all its values")
        lists[path] = values
    fields = dict(zip(lists, _fields(list(lists)), strict=True))
    choices = [
        [
            (f"{path}={json.dumps(value, ensure_ascii=False)}", _part(path, fields[path], word, values))
            for value, word in _worded(values)
        ]
        for path, values in lists.items()
    ]
    chosen = list(itertools.product(*choices))
    labels = ["-".join(part for _, part in choice if part) for choice in chosen]
    if any(len(label) > LONGEST_LABEL for label in labels):
        labels = [f"{label[:LONGEST_LABEL]}-{number}" for number, label in enumerate(labels)]
    return [Variant(tuple(text for text, _ in choice), label) for choice, label in zip(chosen, labels, strict=True)]


def _list_of(text: str) -> tuple[str, Parsed]:
    path, equals, written = text.partition("=")
    try:
        parsed = parse_yaml(written)
    except YamlFaults:
        parsed = Parsed(None)
    if not equals or not isinstance(parsed.value, list) or not parsed.value:
        raise RequestError(f"--each {text}: write a list, such as --each 'train.seed=[0, 1, 2]'")
    return path.strip(), parsed


def _fields(paths: Sequence[str]) -> list[str]:
    """The last word of each path, or more of them where two paths end alike."""
    last = Counter(path.rpartition(".")[2] for path in paths)
    return [path.replace(".", "-") if last[path.rpartition(".")[2]] > 1 else path.rpartition(".")[2] for path in paths]


def _worded(parsed: Parsed) -> list[tuple[Any, str]]:
    """Each value with a word that tells it from the others and can be part of a file's name."""
    values = parsed.value
    words = [_word(parsed.written.get((str(index),), value)) for index, value in enumerate(values)]
    alike = Counter(word.lower() for word in words)
    return [
        (value, word if word and alike[word.lower()] == 1 else f"{word}-{index}".strip("-"))
        for index, (value, word) in enumerate(zip(values, words, strict=True))
    ]


def _word(value: Any) -> str:
    """A value as part of a file's name: of a path its last part, of a section its values."""
    if isinstance(value, dict):
        value = "-".join(_word(part) for part in value.values())
    if isinstance(value, list):
        value = "-".join(_word(part) for part in value)
    text = "none" if value is None else str(value).rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9.]+", "-", text.lower() if isinstance(value, bool) else text)[:LONGEST_WORD].strip("-.")


def _part(path: str, field: str, word: str, parsed: Parsed) -> str:
    """What a value adds to the name; nothing where the name itself is what differs, or all have the value."""
    if path == "name" or len(parsed.value) == 1:
        return ""
    return f"{re.sub(r'[^A-Za-z0-9_.]+', '-', field)}-{word}"
