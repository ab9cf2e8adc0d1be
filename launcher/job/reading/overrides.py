"""`--set a.b=c`: values that go over the job file's, checked the same way; `a.b+=[c]` adds to a list of its."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from launcher.errors import JobError, Problem
from launcher.job.reading.yaml_reader import DEEPEST, YamlFaults, parse_yaml

NO_SECTION = (
    "a part of this path holds a single value; override the whole section, such as data.train={source: train.csv}"
)


def apply_overrides(values: dict[str, Any], sets: Sequence[str]) -> dict[tuple[str, ...], str]:
    """Write each override into `values`; returns which path came from which. Raises JobError."""
    origins: dict[tuple[str, ...], str] = {}
    problems = []
    for text in sets:
        where = f"--set {text}"
        path, equals, written = text.partition("=")
        path, adds = path.removesuffix("+"), path.endswith("+")
        names = tuple(path.strip().split("."))
        if not equals or not all(names):
            problems.append(Problem(where, "", "expected a.b=c", "for example --set train.optimizer.lr=2e-5"))
            continue
        if len(names) > DEEPEST:
            problems.append(Problem(where, "", f"a path of {len(names)} parts, and no field is so deep", "shorten it"))
            continue
        try:
            value = parse_yaml(written).value
        except YamlFaults as error:
            problems += [Problem(where, path, fault.message, fault.fix) for fault in error.faults]
            continue
        section = _section(values, names)
        if section is None:
            problems.append(Problem(where, path, NO_SECTION))
            continue
        if adds:
            before = section.get(names[-1])
            lists = [[] if before is None else before, value]
            if not all(isinstance(one, list) for one in lists):
                message = "+= appends a list to a list, and one of the two is not a list"
                problems.append(Problem(where, path, message, f"{path}+=[…], with a list in the job file"))
                continue
            value = [*lists[0], *lists[1]]
        section[names[-1]] = value
        origins[names] = where
    if problems:
        raise JobError(problems)
    return origins


def _section(values: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any] | None:
    """What holds the last of the names, made where it is not there; None below a single value."""
    for name in names[:-1]:
        below = values.setdefault(name, {})
        if below is None:
            below = values[name] = {}
        if not isinstance(below, dict):
            return None
        values = below
    return values
