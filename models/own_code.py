"""What a user's own Python file defines: a model's builder, a task."""

from __future__ import annotations

import importlib.util
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from xxhash import xxh32


def own_object(location: str) -> Any:
    """What `/path/file.py:name` names; the file runs once in a process."""
    file, _, name = location.rpartition(":")
    return getattr(_module(file), name)


@lru_cache
def _module(file: str) -> ModuleType:
    name = f"adaptrun_user_{Path(file).stem}_{xxh32(file.encode()).hexdigest()}"  # files of one stem are two modules
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # where dataclasses look for annotations
    spec.loader.exec_module(module)
    return module
