"""What can be said of a user's `file.py:function` from its source alone: it is not run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from launcher.errors import ModelError

EXPECTED = """def {name}(labels):  # a tuple of their names; a function may also take nothing
        return ...  # a transformers.PreTrainedModel"""
LAYERS = ("nn.", "torch.nn.")
PAGE = "docs/guides/own-model.md"
Function = ast.FunctionDef | ast.AsyncFunctionDef


def check_function(path: Path, name: str) -> None:
    """Raises ModelError where a function of a file cannot build a model, as far as its source tells."""
    names = dict(_names(_parsed(path).body))
    if name not in names:
        functions = [each for each, node in names.items() if isinstance(node, Function)]
        raise ModelError(f"{path} defines no function {name!r}; it has {', '.join(functions) or 'none'}")
    node = names[name]
    if isinstance(node, ast.ClassDef):
        raise ModelError(f"{path}: {name} is a class; {expected('build')}")
    if isinstance(node, ast.AsyncFunctionDef):
        raise ModelError(f"{path}: {name} is asynchronous; {expected(name)}")
    if isinstance(node, ast.FunctionDef):
        _check_arguments(path, node)
        _check_returned(path, node)


def defines(path: Path, name: str) -> bool:
    """Whether a file itself defines a function or class of the name at its top level. Raises ModelError."""
    body = _parsed(path).body
    bound = dict(_names(body)).get(name)
    return bound in body and isinstance(bound, Function | ast.ClassDef)


def expected(name: str) -> str:
    """What a function has to look like."""
    return f"a function that builds a model looks like this ({PAGE}):\n    {EXPECTED.format(name=name)}"


def _check_arguments(path: Path, node: ast.FunctionDef) -> None:
    given = node.args
    needed = len(given.posonlyargs) + len(given.args) - len(given.defaults)
    named = [one.arg for one, default in zip(given.kwonlyargs, given.kw_defaults, strict=True) if default is None]
    if needed > 1 or named:
        raise ModelError(
            f"{path}, line {node.lineno}: {node.name}({ast.unparse(given)}) has required arguments besides the labels; "
            f"{expected(node.name)}"
        )


def _check_returned(path: Path, node: ast.FunctionDef) -> None:
    """Refuse a function all of whose results are surely plain modules."""
    known = _Known(path)
    returned = [known.plain_class(value, node) for value in _returned(node)]
    if returned and all(returned):
        raise ModelError(
            f"{path}, line {node.lineno}: {node.name} returns {returned[0]}, a plain nn.Module, which has no config "
            f"and cannot be saved as a model folder; derive it from transformers.PreTrainedModel: {expected(node.name)}"
        )


class _Known:
    """The classes that a file defines or takes from modules next to it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names = dict(_names(_parsed(path).body))

    def plain_class(self, value: ast.expr, function: ast.FunctionDef) -> str | None:
        """The name of the plain module that an expression makes; None where it may be anything else."""
        if isinstance(value, ast.Name):
            made = list(_assigned(function, value.id))
            found = [self.plain_class(one, function) for one in made]
            return found[0] if found and all(found) else None
        if not isinstance(value, ast.Call):
            return None
        name = ast.unparse(value.func)
        return name if self._is_plain(name) else None

    def _is_plain(self, name: str, depth: int = 8) -> bool:
        if depth == 0:
            return False
        if name.startswith(LAYERS):
            return True
        module, _, last = name.rpartition(".")
        if module:
            imported = self._names.get(module)
            return isinstance(imported, ast.Import) and self._beside(module, last)
        node = self._names.get(name)
        if isinstance(node, ast.ClassDef):
            return bool(node.bases) and all(self._is_plain(ast.unparse(base), depth - 1) for base in node.bases)
        if isinstance(node, ast.ImportFrom):
            original = next(alias.name for alias in node.names if name in (alias.asname, alias.name))
            return node.module == "torch.nn" or self._beside(node.module or "", original)
        return False

    def _beside(self, module: str, name: str) -> bool:
        file = self._path.with_name(f"{module}.py")
        return "." not in module and file != self._path and file.is_file() and _Known(file)._is_plain(name)


def _parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"), str(path))
    except SyntaxError as error:
        raise ModelError(f"{path}, line {error.lineno or 1}: {error.msg}") from None
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise ModelError(f"{path} cannot be read as Python: {error}") from None


def _names(body: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """What a module binds, in the order in which it does."""
    for node in body:
        if isinstance(node, Function | ast.ClassDef):
            yield node.name, node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name, node) for alias in node.names)
        elif isinstance(node, ast.Assign):
            targets = [below for target in node.targets for below in ast.walk(target)]
            yield from ((below.id, node) for below in targets if isinstance(below, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, node
        elif isinstance(node, ast.If | ast.Try | ast.With):
            for part in ("body", "orelse", "finalbody"):
                yield from _names(getattr(node, part, []))
            for handler in getattr(node, "handlers", []):
                yield from _names(handler.body)


def _within(node: ast.AST) -> Iterator[ast.AST]:
    """All below a function's node that is not in a function of its own."""
    for below in ast.iter_child_nodes(node):
        if not isinstance(below, Function | ast.Lambda | ast.ClassDef):
            yield below
            yield from _within(below)


def _returned(function: ast.FunctionDef) -> list[ast.expr]:
    return [node.value for node in _within(function) if isinstance(node, ast.Return) and node.value is not None]


def _assigned(function: ast.FunctionDef, name: str) -> Iterator[ast.expr]:
    for node in _within(function):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if name in map(ast.unparse, targets):
                yield node.value
