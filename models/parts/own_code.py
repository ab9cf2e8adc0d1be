"""What a user's own Python file defines: a model's builder, a task, a method.

Modules that lie beside the file are found as well, after everything that is installed, so that none of them can stand
in for one of ours or of Python's own.
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
"""What the names of modules made of users' files begin with."""


def own_object(location: str) -> Any:
    """What `/path/file.py:name` names; the file runs once in a process.

    Raises ModelError where it is not there, or takes from elsewhere what is not there.
    """
    file, _, name = location.rpartition(":")
    if not Path(file).is_file():
        raise ModelError(f"there is no {file}; put it back, or name its new place")
    module = _module(file)
    if not hasattr(module, name):
        raise ModelError(f"{file} defines no {name}")
    return getattr(module, name)


def check_names(own: type, renamed: Mapping[str, str]) -> None:
    """Raises RequestError for an own class that defines what has another name now, and would never be called.

    renamed: old names of the base class, and what they are now
    """
    for old, new in renamed.items():
        if any(old in vars(each) for each in own.__mro__ if each.__module__.startswith(MODULES)):
            raise RequestError(f"{own.__name__}.{old} is called {new} now; rename it")


def build_model(location: str, labels: Sequence[str]) -> PreTrainedModel:
    """The model that `/path/file.py:function` returns, which takes the labels or nothing.

    Raises ModelError for a function of another form, or one that returns something else.
    """
    function = own_object(location)
    name = location.rpartition(":")[2]
    if not callable(function):
        raise ModelError(f"{location} is no function; {expected(name)}")
    takes = _signature(function)
    if takes is None or _fits(takes, tuple(labels)):
        model = function(tuple(labels))
    elif _fits(takes):
        model = function()
    else:
        raise ModelError(f"{location} has the arguments {takes}; {expected(name)}")
    if not isinstance(model, nn.Module) or not hasattr(model, "save_pretrained") or not hasattr(model, "config"):
        what = "a plain nn.Module, which has no config" if isinstance(model, nn.Module) else "no model"
        raise ModelError(f"{location} returned {type(model).__name__}, {what}; {expected(name)}")
    built: PreTrainedModel = model
    return built


def _signature(function: Any) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):  # what is written in C does not say
        return None


def _fits(signature: inspect.Signature, *arguments: Any) -> bool:
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


@lru_cache
def _module(file: str) -> ModuleType:
    name = f"{MODULES}{Path(file).stem}_{xxh32(file.encode()).hexdigest()}"  # files of one stem are two modules
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # where dataclasses look for annotations
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


class _Beside(MetaPathFinder):
    """Finds modules in the folders of the user's own files, the one that was opened last first."""

    def __init__(self) -> None:
        self._folders: list[str] = []
        self._found: dict[str, str] = {}

    def begin_with(self, folder: str) -> None:
        """Look in a folder first. Of a module that another folder has under the same name it gets its own."""
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
        """A module of no package; those of a package are found by the package."""
        if path is not None:
            return None
        for folder in self._folders:
            spec = _spec(fullname, folder)
            if spec is not None:
                self._found[fullname] = folder
                return spec
        return None


BESIDE = _Beside()


def _spec(name: str, folder: str) -> ModuleSpec | None:
    """A module or package of a folder. Of folders without `__init__.py` only those that hold Python are packages."""
    spec = PathFinder.find_spec(name, [folder])
    if spec is None or spec.origin is not None or any((Path(folder) / name).glob("*.py")):
        return spec
    return None


def _line(file: str, error: BaseException) -> str:
    """The line of the user's file that led to an error."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{file}, line {lines[-1]}" if lines else file


def _reason(file: str, error: ImportError) -> str:
    """Why a module beside the file is not the one that was found."""
    name = (error.name or "").partition(".")[0]
    shadowed = Path(file).with_name(f"{name}.py")
    if isinstance(error, ModuleNotFoundError) and error.name:
        return "; it is neither installed nor in the folder of the file"
    if name and shadowed.is_file() and error.path != str(shadowed):
        return f"; an installed module has the name of {shadowed}, which must have another"
    return ""
