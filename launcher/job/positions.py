"""YAML read together with the place of every key and value."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from launcher.errors import JobError, Problem

Path_ = tuple[str, ...]
"""Keys, and the places in lists, counted from 0."""


@dataclass(frozen=True)
class Document:
    """A YAML file as plain values, with `file:line:column` of each path.

    keys: where each key stands; values: where each value begins
    """

    file: Path
    values: dict[str, Any]
    places: dict[Path_, str]

    def where(self, path: Path_) -> str:
        """The place of a path, or of the nearest part of it that is in the file."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, f"{self.file}:1:1")


class _Loader(yaml.SafeLoader):
    """Safe YAML; the words yes, no, on and off stay text, as a person who writes them as a name means them."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|false|False)$"), list("tTfF"))


def read_document(file: Path, origin: str = "adaptrun init writes one to start from") -> Document:
    """Read a job file. Raises JobError for a file that is missing, is no YAML, or repeats a key.

    origin: where such a file comes from, for who has none
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise JobError([Problem(str(file), "", "there is no such file", origin)]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise JobError([Problem(str(file), "", f"cannot be read as UTF-8 text: {error}")]) from None
    try:
        values, places = _parse(file, text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else str(file)
        raise JobError([Problem(where, "", f"not valid YAML: {error.problem}")]) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - (text.rfind("\n", 0, error.position) + 1) + 1
        fault = f"not valid YAML: the character {_character(error)!r} is not allowed"
        raise JobError([Problem(f"{file}:{line}:{column}", "", fault, "remove it")]) from None
    except ValueError as error:  # such as a date that does not exist
        raise JobError([Problem(f"{file}:1:1", "", f"not valid YAML: {error}", "put quotes around it")]) from None
    if not isinstance(values, dict):
        found = (
            "the file is empty" if values is None else f"the file holds {type(values).__name__}, not keys and values"
        )
        raise JobError([Problem(f"{file}:1:1", "", found, "adaptrun init writes a job file to start from")])
    return Document(file, values, places)


def places_in_json(file: Path, text: str) -> dict[Path_, str]:
    """`file:line:column` of each path of a JSON text, which YAML holds but for its tabs.

    Raises JobError for keys given twice.
    """
    try:
        return _parse(file, text.replace("\t", " "))[1]
    except yaml.YAMLError:  # a character that only JSON allows
        return {}


def _parse(file: Path, text: str) -> tuple[Any, dict[Path_, str]]:
    """Values and places. Raises yaml's errors, and JobError for keys given twice and loops."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, {}
        walk = _Walk(file)
        walk.enter(node, ())
        if walk.problems:
            raise JobError(walk.problems)
        return loader.construct_document(node), walk.places
    finally:
        loader.dispose()


class _Walk:
    """Notes the place of every key and value, and what YAML lets pass and a job file must not hold."""

    def __init__(self, file: Path) -> None:
        self.file, self.places, self.problems = file, dict[Path_, str](), list[Problem]()
        self._above: list[yaml.Node] = []

    def enter(self, node: yaml.Node, path: Path_) -> None:
        self.places.setdefault(path, _place(self.file, node))
        if any(node is above for above in self._above):
            dotted = ".".join(map(str, path))
            self.problems.append(Problem(_place(self.file, node), dotted, "the value holds itself", "remove the alias"))
            return
        self._above.append(node)
        if isinstance(node, yaml.MappingNode):
            self._keys(node, path)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self.enter(value, (*path, str(index)))
        self._above.pop()

    def _keys(self, node: yaml.MappingNode, path: Path_) -> None:
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            below = (*path, name)
            if name in seen and key.tag != "tag:yaml.org,2002:merge":
                dotted = ".".join(map(str, below))
                self.problems.append(
                    Problem(_place(self.file, key), dotted, "the key is there twice", "remove one of the two")
                )
            seen.add(name)
            self.places[below] = _place(self.file, key)
            self.enter(value, below)


def _character(error: yaml.reader.ReaderError) -> str:
    return chr(error.character) if isinstance(error.character, int) else str(error.character)


def _place(file: Path, node: yaml.Node) -> str:
    return f"{file}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"
