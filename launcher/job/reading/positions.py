"""Job files, profiles and DeepSpeed's JSON, read together with the place of every key and value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher.errors import JobError, Problem
from launcher.job.reading.yaml_reader import KeyPath, Parsed, YamlFaults, parse_yaml

LARGEST_FILE = 2**20
"""Bytes of a job file or profile."""


@dataclass(frozen=True)
class Document:
    """A file as plain values, with `file:line:column` of each path.

    places: where each key stands; of an item of a list, where its value begins
    written: numbers and booleans as they stand in the file
    """

    file: Path
    values: dict[str, Any]
    places: dict[KeyPath, str]
    written: Mapping[KeyPath, str] = field(default_factory=dict)

    def where(self, path: KeyPath) -> str:
        """The place of a path, or of the nearest part of it that is in the file."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, f"{self.file}:1:1")


def read_document(file: Path, origin: str = "adaptrun init writes a job file to start from") -> Document:
    """Read a job file. Raises JobError for a file that is missing, is no YAML, or repeats a key.

    origin: where such a file comes from, for who has none
    """
    parsed = _parsed(file, _text_of(file, origin))
    if not isinstance(parsed.value, dict):
        kind = type(parsed.value).__name__
        found = "the file is empty" if parsed.value is None else f"the file holds {kind}, not keys and values"
        raise JobError([Problem(f"{file}:1:1", "", found, "adaptrun init writes a job file to start from")])
    return Document(file, parsed.value, _places(file, parsed), parsed.written)


def places_in_json(file: Path, text: str) -> dict[KeyPath, str]:
    """`file:line:column` of each path of a JSON text, which YAML holds but for its tabs.

    Raises JobError for keys given twice.
    """
    try:
        return _places(file, parse_yaml(text.replace("\t", " ")))
    except YamlFaults as error:
        twice = [fault for fault in error.faults if "twice" in fault.message]
        if twice:
            raise _refused(file, YamlFaults(twice)) from None
        return {}  # a character that only JSON allows


def _text_of(file: Path, origin: str) -> str:
    try:
        with file.open("rb") as opened:
            data = opened.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        raise JobError([Problem(str(file), "", "there is no such file", origin)]) from None
    except (OSError, ValueError) as error:
        raise JobError([Problem(str(file), "", f"cannot be read: {error}")]) from None
    if len(data) > LARGEST_FILE:
        message = f"is larger than {LARGEST_FILE // 2**20} MiB, too large for a job file or profile"
        raise JobError([Problem(str(file), "", message, "check the path")])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig", errors="replace").replace("\r\n", "\n").replace("\r", "\n")
        where = f"{file}:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"
        message = f"cannot be read as UTF-8 text: byte 0x{data[error.start]:02x}: {error.reason}"
        raise JobError([Problem(where, "", message, "save the file as UTF-8")]) from None


def _parsed(file: Path, text: str) -> Parsed:
    try:
        return parse_yaml(text)
    except YamlFaults as error:
        raise _refused(file, error) from None


def _refused(file: Path, error: YamlFaults) -> JobError:
    return JobError([Problem(f"{file}:{f.line}:{f.column}", ".".join(f.path), f.message, f.fix) for f in error.faults])


def _places(file: Path, parsed: Parsed) -> dict[KeyPath, str]:
    return {path: f"{file}:{line}:{column}" for path, (line, column) in parsed.places.items()}
