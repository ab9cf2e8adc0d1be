"""YAML as a job file needs it: plain values, the place of each, and a bound on what a short text can grow into.

Values are those of YAML 1.2: `20:00`, `010`, `2020-01-31`, `yes` and `off` are text, and `1e-5` is a number. Keys are
the text that they are written as. Merge keys (`<<`) and aliases are read; tags but those of plain values are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

KeyPath = tuple[str, ...]
"""Keys, and the places in lists, counted from 0."""
DEEPEST = 100
"""Levels of sections and lists."""
MOST_VALUES = 100_000
"""Values that a text may hold once its aliases are followed."""
MOST_FAULTS = 20
"""Faults that are listed at once."""
LONGEST_NUMBER = 300
"""Characters of a number; Python refuses to print integers beyond 4,300 digits."""

_STANDARD = "tag:yaml.org,2002:"
_MERGE = f"{_STANDARD}merge"
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*|0x[0-9a-fA-F]+)")
_FLOAT = re.compile(
    r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_BOOLS = {"true": True, "false": False}
_NULLS = ("", "~", "null", "Null", "NULL")


@dataclass(frozen=True)
class Fault:
    """What cannot be read, or must not be there. Line and column count from 1."""

    line: int
    column: int
    message: str
    path: KeyPath = ()
    fix: str = ""


class YamlFaults(Exception):
    """A text that is no YAML, or holds what no job file may; all that was found."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("; ".join(fault.message for fault in faults))
        self.faults = faults


@dataclass(frozen=True)
class Parsed:
    """Plain values with line and column of each path.

    places: where each key stands; of an item of a list, where its value begins
    written: numbers and booleans as they stand in the text
    """

    value: Any
    places: dict[KeyPath, tuple[int, int]] = field(default_factory=dict)
    written: dict[KeyPath, str] = field(default_factory=dict)


def parse_yaml(text: str) -> Parsed:
    """Read one document; an empty one is None. Raises YamlFaults."""
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        raise YamlFaults([_bad_character(text, error)]) from None
    try:
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        line, column = _position(error.problem_mark or error.context_mark)
        said = ", ".join(part for part in (error.context, error.problem) if part)
        raise YamlFaults([Fault(line, column, f"not valid YAML: {said}")]) from None
    except (ValueError, OverflowError):  # an escape beyond the last character, or a version of 5,000 digits
        message = "not valid YAML: a number out of range"
        raise YamlFaults([Fault(*_position(loader.get_mark()), message)]) from None
    finally:
        loader.dispose()
    if node is None:
        return Parsed(None)
    reading = _Reading()
    value = reading.value(node, ())
    if reading.faults:
        raise YamlFaults(reading.faults)
    return Parsed(value, reading.places, reading.written)


def dump_yaml(values: Any) -> str:
    """Values as YAML that `parse_yaml`, and readers of YAML 1.1, read as the same values."""
    text: str = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


class _Loader(yaml.SafeLoader):
    """Composes nodes, and stops at a depth that no job has."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        if self._depth > DEEPEST:
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, f"nested deeper than {DEEPEST} levels", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


_Loader.yaml_implicit_resolvers = {}
for _name, _pattern, _first in (
    ("bool", re.compile("true|True|TRUE|false|False|FALSE"), "tTfF"),
    ("int", _INTEGER, "-+0123456789"),
    ("float", _FLOAT, "-+.0123456789"),
    ("null", re.compile("|".join(map(re.escape, _NULLS))), ["", "~", "n", "N"]),
    ("merge", re.compile("<<"), "<"),
):
    _Loader.add_implicit_resolver(f"{_STANDARD}{_name}", re.compile(f"(?:{_pattern.pattern})$"), list(_first))


class _Dumper(yaml.SafeDumper):
    """Puts quotes around text that YAML of either version takes for something else."""


_Dumper.add_implicit_resolver(f"{_STANDARD}float", re.compile(f"(?:{_FLOAT.pattern})$"), list("-+.0123456789"))


class _Reading:
    """Makes values of nodes, and notes their places and what must not be there."""

    def __init__(self) -> None:
        self.places, self.written = dict[KeyPath, tuple[int, int]](), dict[KeyPath, str]()
        self.faults: list[Fault] = []
        self._above: list[yaml.Node] = []
        self._values = 0

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        self.places.setdefault(path, _position(node.start_mark))
        self._count(node, path)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if not self._enter(node, path):
            return None
        value = self._mapping(node, path) if isinstance(node, yaml.MappingNode) else self._list(node, path)
        self._above.pop()
        return value

    def _count(self, node: yaml.Node, path: KeyPath) -> None:
        """Stop where aliases that hold aliases multiply."""
        self._values += 1
        if self._values > MOST_VALUES:
            message = f"with its aliases expanded, the file has more than {MOST_VALUES:,} values"
            self._fault(node, path, message, "remove the alias")
            raise YamlFaults(self.faults)

    def _enter(self, node: yaml.Node, path: KeyPath) -> bool:
        kind = "map" if isinstance(node, yaml.MappingNode) else "seq"
        if any(node is above for above in self._above):
            self._fault(node, path, "the value contains itself", "remove the alias")
        elif len(self._above) >= DEEPEST:
            self._fault(node, path, f"not valid YAML: nested deeper than {DEEPEST} levels", "remove the alias")
        elif node.tag != f"{_STANDARD}{kind}":
            self._bad_tag(node, path)
        else:
            self._above.append(node)
            return True
        return False

    def _list(self, node: yaml.Node, path: KeyPath) -> list[Any]:
        return [self.value(item, (*path, str(index))) for index, item in enumerate(node.value)]

    def _mapping(self, node: yaml.Node, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in _own(node):
            if not isinstance(key, yaml.ScalarNode):
                self._fault(key, path, "not valid YAML: a list or a section cannot be a key", "write a text as the key")
                continue
            name = self._text(key, path)
            below = (*path, name)
            if name in values:
                self._fault(key, below, "the key is given twice", "remove one of the two")
            self.places.setdefault(below, _position(key.start_mark))
            values[name] = self.value(value, below)
        for source in _merged(node):
            found = self.value(source, path) if isinstance(source, yaml.MappingNode) else None
            if not isinstance(source, yaml.MappingNode):
                self._fault(source, path, "<< needs a section, or a list of sections", "name one by its alias")
            values = {**(found or {}), **values}
        return values

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        text, kind = node.value, node.tag.removeprefix(_STANDARD)
        if kind == "str" or node.tag == "!" or kind == "merge":
            return self._text(node, path)
        if kind == "null" and text in _NULLS:
            return None
        self.written[path] = text
        if kind == "bool" and text.lower() in _BOOLS:
            return _BOOLS[text.lower()]
        if kind in ("int", "float") and len(text) > LONGEST_NUMBER:
            self._fault(
                node, path, f"a number of {len(text):,} characters; at most {LONGEST_NUMBER} are allowed", "shorten it"
            )
        elif kind == "int" and _INTEGER.fullmatch(text):
            return int(text, 16 if "x" in text else 10)
        elif kind == "float" and (_FLOAT.fullmatch(text) or _INTEGER.fullmatch(text)):
            return float(re.sub(r"\.(inf|nan)", r"\1", text.lower()))
        elif kind in ("null", "bool", "int", "float"):
            self._fault(
                node, path, f"not valid YAML: {_shown(text)!r} is not a valid {_tag(node)}", f"remove {_tag(node)}"
            )
        else:
            self._bad_tag(node, path)
        return None

    def _text(self, node: yaml.ScalarNode, path: KeyPath) -> str:
        text: str = node.value
        try:
            return text.encode("utf-16", errors="surrogatepass").decode("utf-16")  # JSON writes 😀 as two escapes
        except UnicodeDecodeError:
            self._fault(node, path, "not valid YAML: half of a character (a lone surrogate)", "remove the escape")
            return ""

    def _bad_tag(self, node: yaml.Node, path: KeyPath) -> None:
        self._fault(node, path, f"not valid YAML: the tag {_tag(node)} is not allowed", "remove it")

    def _fault(self, node: yaml.Node, path: KeyPath, message: str, fix: str) -> None:
        self.faults.append(Fault(*_position(node.start_mark), message, path, fix))
        if len(self.faults) >= MOST_FAULTS:
            raise YamlFaults(self.faults)


def _own(node: yaml.Node) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    return ((key, value) for key, value in node.value if key.tag != _MERGE)


def _merged(node: yaml.Node) -> Iterator[yaml.Node]:
    """What the merge keys of a section name, the one that goes first first."""
    for key, value in node.value:
        if key.tag == _MERGE:
            yield from value.value if isinstance(value, yaml.SequenceNode) else [value]


def _tag(node: yaml.Node) -> str:
    return _shown(node.tag.replace(_STANDARD, "!!"))


def _shown(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def _position(mark: yaml.Mark | None) -> tuple[int, int]:
    return (1, 1) if mark is None else (mark.line + 1, mark.column + 1)


def _bad_character(text: str, error: yaml.reader.ReaderError) -> Fault:
    before = text[: error.position].replace("\r\n", "\n").replace("\r", "\n")
    character = chr(error.character) if isinstance(error.character, int) else str(error.character)
    return Fault(
        before.count("\n") + 1,
        len(before) - (before.rfind("\n") + 1) + 1,
        f"not valid YAML: the character {character!r} is not allowed",
        fix="remove it",
    )
