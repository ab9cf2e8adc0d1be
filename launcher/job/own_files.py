"""The files that a user's own Python file is made of: itself, and the modules next to it that it imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path


def with_imports(file: Path) -> list[Path]:
    """A file and the modules next to it that it imports, those that they import among them; none of them is run."""
    found = [file]
    for one in found:  # grows on the way
        for other in _imported(one, file.parent):
            if other not in found:
                found.append(other)
    return found


def _imported(file: Path, folder: Path) -> Iterator[Path]:
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):  # running it says what is wrong
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            parts = name.split(".")
            for count in range(1, len(parts) + 1):
                place = folder.joinpath(*parts[:count])
                for module in (place.with_suffix(".py"), place / "__init__.py"):
                    if module.is_file():
                        yield module
