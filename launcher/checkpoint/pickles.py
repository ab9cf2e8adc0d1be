"""Read a pickle without running code from it.

A pickle is a program: it calls whatever it names. Here each allowed name creates a `Record`, which only stores its
arguments. Any other name is an error.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from launcher.errors import CheckpointError


class Record:
    """Stand-in for an object of a class that is never imported.

    arguments: those of its constructor
    state: the argument of `__setstate__`, usually its attributes
    """

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments
        self.state: Any = {}

    def __setstate__(self, state: object) -> None:
        self.state = state


def refused(file: Path, name: str) -> CheckpointError:
    """The error for a file that names something that is not allowed."""
    return CheckpointError(
        f"{file} names {name}, which could run code when the file is read and is not needed for weights; "
        "nothing was read. If you trust its author, load it with the program that wrote it and save only the weights"
    )


class _Unpickler(pickle.Unpickler):
    def __init__(self, opened: BinaryIO, file: Path, allowed: Mapping[tuple[str, str], Any]) -> None:
        super().__init__(opened)
        self._file, self._allowed = file, allowed

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise refused(self._file, f"{module}.{name}")
        return self._allowed[module, name]


def read_pickle(file: Path, allowed: Mapping[tuple[str, str], Any]) -> Any:
    """The contents of a pickle that names only what is allowed.

    allowed: the stand-in for each module and name
    Raises CheckpointError, and OSError if the file cannot be read.
    """
    with file.open("rb") as opened:
        try:
            return _Unpickler(opened, file, allowed).load()
        except CheckpointError:
            raise
        except Exception as error:  # a damaged pickle can raise anything
            raise CheckpointError(f"{file} is damaged: {type(error).__name__}: {error}") from error
