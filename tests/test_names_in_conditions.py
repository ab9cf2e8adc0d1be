"""Whatever is particular to an engine, method, adapter or task is in its own file: no condition elsewhere names one."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from launcher.adapt.adapters import ADAPTERS
from launcher.adapt.methods import METHODS
from launcher.job.schema import DEEPSPEED_TEMPLATES
from launcher.job.sections.methods import SECTIONS
from launcher.job.sections.tasks import FAMILIES
from launcher.plan.engines import ENGINES, SHARDINGS
from tests.test_imports import modules

NAMES = {*ENGINES, *SHARDINGS, *DEEPSPEED_TEMPLATES, *METHODS, *ADAPTERS, *SECTIONS, *FAMILIES}
CLASSES = {section.__name__ for section in SECTIONS.values()}
"""Sections of the job file that stand for a method."""

MAY_SAY_THEM = (
    "launcher.adapt.methods.",
    "launcher.adapt.adapters.",
    "launcher.engines.",
    "launcher.plan.engines.",
    "launcher.models.tasks.",
    "launcher.job.rules.",
    "launcher.job.sections.",
)
"""Their own files, their registries and their rules."""


def named_in(condition: ast.AST) -> Iterator[str]:
    """What is compared with a constant, and the classes that an `isinstance` asks for."""
    if isinstance(condition, ast.Call):
        if isinstance(condition.func, ast.Name) and condition.func.id == "isinstance":
            yield from (each.id for each in ast.walk(condition.args[1]) if isinstance(each, ast.Name))
        return
    values = {each.value for each in ast.walk(condition) if isinstance(each, ast.Constant)}
    yield from (value for value in values if isinstance(value, str))


def test_no_condition_names_an_engine_a_method_an_adapter_or_a_task() -> None:
    wrong = {
        f"{module}:{node.lineno}: {name}"
        for module, file in modules().items()
        if not module.startswith(MAY_SAY_THEM)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Compare | ast.Call | ast.MatchValue)
        for name in named_in(node)
        if name in NAMES | CLASSES
    }
    assert not wrong
