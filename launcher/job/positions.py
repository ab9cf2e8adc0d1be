"""YAML read together with the place of every key and value."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from launcher.errors import JobError, Problem

Path_ = tuple[str | int, ...]


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
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", __import__("re").compile(r"^(?:true|True|false|False)$"), list("tTfF")
)


def read_document(file: Path) -> Document:
    """Read a job file. Raises JobError for a file that is missing, is no YAML, or repeats a key."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise JobError(
            [Problem(str(file), "", "there is no such file", "adaptrun init writes one to start from")]
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise JobError([Problem(str(file), "", f"cannot be read as UTF-8 text: {error}")]) from None
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        places: dict[Path_, str] = {}
        problems: list[Problem] = []
        if node is not None:
            _walk(file, node, (), places, problems)
        if problems:
            raise JobError(problems)
        values = loader.construct_document(node) if node is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else str(file)
        raise JobError([Problem(where, "", f"not valid YAML: {error.problem}")]) from None
    finally:
        loader.dispose()
    if not isinstance(values, dict):
        found = (
            "the file is empty" if values is None else f"the file holds {type(values).__name__}, not keys and values"
        )
        raise JobError([Problem(f"{file}:1:1", "", found, "adaptrun init writes a job file to start from")])
    return Document(file, values, places)


def _walk(file: Path, node: yaml.Node, path: Path_, places: dict[Path_, str], problems: list[Problem]) -> None:
    places.setdefault(path, _place(file, node))
    if isinstance(node, yaml.MappingNode):
        seen: set[Hashable] = set()
        for key, value in node.value:
            below = (*path, str(key.value))
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                dotted = ".".join(map(str, below))
                problems.append(Problem(_place(file, key), dotted, "the key is there twice", "remove one of the two"))
            seen.add(key.value)
            places[below] = _place(file, key)
            _walk(file, value, below, places, problems)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _walk(file, value, (*path, index), places, problems)


def _place(file: Path, node: yaml.Node) -> str:
    return f"{file}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"
