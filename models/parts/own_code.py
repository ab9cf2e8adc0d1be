"""Objects from a user's own Python file: a function that builds a model, a task, a method.

Modules in the same folder can be imported too. Installed modules take precedence, so that none of them can replace a
module of adaptrun or of Python.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import nn
from xxhash import xxh32

from launcher.errors import ModelError, RequestError
from launcher.job.own_function import expected

if TYPE_CHECKING:
    from transformers import PreTrainedModel


MODULES = "adaptrun_user_"
"""Prefix of the names of modules loaded from users' files."""


def own_object(location: str) -> Any:
    """The object that `/path/file.py:name` names; the file runs once per process.

    Raises ModelError if the file or the name does not exist, or if the file fails to run.
    """
    file, _, name = location.rpartition(":")
    if not Path(file).is_file():
        raise ModelError(f"there is no {file}; restore it, or name its new path")
    module = _module(file)
    if not hasattr(module, name):
        raise ModelError(f"{file} defines no {name}")
    return getattr(module, name)


def check_names(own: type, renamed: Mapping[str, str]) -> None:
    """Raises RequestError for a user's class with a method that was renamed, and would never be called.

    renamed: old names of the base class, and the new ones
    """
    for old, new in renamed.items():
        if any(old in vars(each) for each in own.__mro__ if each.__module__.startswith(MODULES)):
            raise RequestError(f"{own.__name__}.{old} is now called {new}; rename it")


def build_model(location: str, labels: Sequence[str]) -> PreTrainedModel:
    """The model that `/path/file.py:function` returns, which takes the labels or nothing.

    Raises ModelError for a function of another form, or one that returns something else.
    """
    function = own_object(location)
    name = location.rpartition(":")[2]
    if not callable(function):
        raise ModelError(f"{location} is not a function; {expected(name)}")
    takes = _signature(function)
    if takes is None or _fits(takes, tuple(labels)):
        model = function(tuple(labels))
    elif _fits(takes):
        model = function()
    else:
        raise ModelError(f"{location} has the arguments {takes}; {expected(name)}")
    if not isinstance(model, nn.Module) or not hasattr(model, "save_pretrained") or not hasattr(model, "config"):
        what = "a plain nn.Module, which has no config" if isinstance(model, nn.Module) else "not a model"
        raise ModelError(f"{location} returned {type(model).__name__}, {what}; {expected(name)}")
    built: PreTrainedModel = model
    return built


def _signature(function: Any) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):  # functions written in C have none
        return None


def _fits(signature: inspect.Signature, *arguments: Any) -> bool:
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


@lru_cache
def _module(file: str) -> ModuleType:
    name = f"{MODULES}{Path(file).stem}_{xxh32(file.encode()).hexdigest()}"  # unique per file
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look for annotations there
    BESIDE.begin_with(str(Path(file).parent))
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        del sys.modules[name]
        raise ModelError(f"{_line(file, error)}: {error}{_reason(file, error)}") from error
    except SyntaxError as error:
        del sys.modules[name]
        raise ModelError(f"{error.filename}, line {error.lineno}: {error.msg}") from error
    return module


class _FolderFinder(MetaPathFinder):
    """Finds modules in the folders of the user's files, starting with the file that was opened last."""

    def __init__(self) -> None:
        self._folders: list[str] = []
        self._found: dict[str, str] = {}

    def begin_with(self, folder: str) -> None:
        """Search a folder first; it gets its own module even if another folder has one of the same name."""
        self._folders = [folder, *(other for other in self._folders if other != folder)]
        if self not in sys.meta_path:
            sys.meta_path.append(self)
        for name, place in list(self._found.items()):
            if place != folder and _spec(name, folder) is not None:
                del self._found[name]
                for module in [one for one in sys.modules if one == name or one.startswith(f"{name}.")]:
                    del sys.modules[module]

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A top-level module; modules of a package are found by the package."""
        if path is not None:
            return None
        for folder in self._folders:
            spec = _spec(fullname, folder)
            if spec is not None:
                self._found[fullname] = folder
                return spec
        return None


BESIDE = _FolderFinder()


def _spec(name: str, folder: str) -> ModuleSpec | None:
    """A module or package in a folder. A subfolder without `__init__.py` is a package if it has Python files."""
    spec = PathFinder.find_spec(name, [folder])
    if spec is None or spec.origin is not None or any((Path(folder) / name).glob("*.py")):
        return spec
    return None


def _line(file: str, error: BaseException) -> str:
    """The line of the user's file that caused an error."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{file}, line {lines[-1]}" if lines else file


def _reason(file: str, error: ImportError) -> str:
    """Why a module in the file's folder was not imported."""
    name = (error.name or "").partition(".")[0]
    shadowed = Path(file).with_name(f"{name}.py")
    if isinstance(error, ModuleNotFoundError) and error.name:
        return "; the module is neither installed nor in the folder of the file"
    if name and shadowed.is_file() and error.path != str(shadowed):
        return f"; an installed module has the same name as {shadowed}; rename your file"
    return ""
