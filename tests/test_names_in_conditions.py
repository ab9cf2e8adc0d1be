"""Whatever is particular to an engine, method, adapter or task is in its own file: no condition elsewhere names one."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from launcher.adapt.adapters import ADAPTERS
from launcher.adapt.methods import METHODS
from launcher.job.schema import DEEPSPEED_TEMPLATES
from launcher.job.sections.methods import SECTIONS
from launcher.job.sections.tasks import FAMILIES
from launcher.plan.engines import ENGINES, SHARDINGS
from tests.test_imports import modules

KINDS = [set(kind) for kind in (ENGINES, SHARDINGS, DEEPSPEED_TEMPLATES, METHODS, ADAPTERS, SECTIONS, FAMILIES)]
NAMES = set().union(*KINDS)
CLASSES = {section.__name__ for section in SECTIONS.values()}
"""Sections of the job file that stand for a method."""

REGISTRIES = {"launcher.engines.__init__", "launcher.job.sections.adapters", "launcher.job.sections.old_spelling"}
RULES = "launcher.job.rules."


def named_in_conditions(source: str) -> Iterator[tuple[int, str]]:
    """The strings that conditions of a module compare with, and the classes that they ask for, with their lines.

    A condition that asks a literal collection of the module compares with each of its strings, unless the collection
    has a whole kind of them: it singles out none.
    """
    tree = ast.parse(source)
    literals = {
        target.id: set(_strings(node.value))
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    collections = {name: held for name, held in literals.items() if not any(kind <= held for kind in KINDS)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare | ast.MatchValue):
            yield from ((node.lineno, name) for name in _strings(node))
            asked = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
            yield from ((node.lineno, name) for one in asked for name in collections.get(one, ()))
        elif isinstance(node, ast.MatchClass):
            yield from ((node.lineno, name) for name in _classes(node.cls))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
            yield from ((node.lineno, name) for name in _classes(node.args[1]))


def _strings(node: ast.AST) -> Iterator[str]:
    constants = (each.value for each in ast.walk(node) if isinstance(each, ast.Constant))
    yield from (value for value in constants if isinstance(value, str))


def _classes(node: ast.AST) -> Iterator[str]:
    yield from (each.id for each in ast.walk(node) if isinstance(each, ast.Name))
    yield from (each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute))


def test_no_condition_names_an_engine_a_method_an_adapter_or_a_task() -> None:
    wrong = {
        f"{module}:{line}: {name}"
        for module, file in modules().items()
        if module not in REGISTRIES and not module.startswith(RULES)
        for line, name in named_in_conditions(file.read_text(encoding="utf-8"))
        if name in NAMES | CLASSES and module.rpartition(".")[2] != name.replace("-", "_")
    }
    assert not wrong


@pytest.mark.parametrize(
    "source",
    [
        "if engine == 'fsdp': pass",
        "sharded = name in ('zero2', 'fsdp')",
        "SHARDED = {'fsdp': 1, 'zero3': 2}\ndef is_sharded(name): return name in SHARDED",
        "SHARDED: frozenset[str] = frozenset({'fsdp'})\nwhile not name in SHARDED: pass",
        "match engine:\n    case 'fsdp': pass",
        "match adapt:\n    case methods.Dann(): pass",
        "isinstance(adapt, methods.Dann)",
        "issubclass(kind, (Dann, Other))",
    ],
)
def test_such_a_condition_is_found(source: str) -> None:
    assert {name for _, name in named_in_conditions(source)} & (NAMES | CLASSES)
