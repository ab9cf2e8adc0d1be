"""What a pickle may name, and the records that stand for it: reading a file of others calls none of their code.

A pickle is a program: it calls whatever it names. So each name on a list stands for a record of ours, which keeps what
it is given and does nothing, and any other name ends the reading.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from launcher.errors import CheckpointError


class Record:
    """Stands for an object of a class that is never imported.

    arguments: what it was made with
    state: what it was given afterwards, its attributes as a rule
    """

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments
        self.state: Any = {}

    def __setstate__(self, state: object) -> None:
        self.state = state


def refused(file: Path, name: str) -> CheckpointError:
    """The error for a file that names something which is not on its list."""
    return CheckpointError(
        f"{file} names {name}, which could run code when the file is read and which no weights need: nothing was read. "
        "Where you trust its author, load it with the program that wrote it and save the weights alone"
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
    """What a file holds, where it names nothing but what is allowed.

    allowed: what stands for each module and name
    Raises CheckpointError, and OSError where the file cannot be read.
    """
    with file.open("rb") as opened:
        try:
            return _Unpickler(opened, file, allowed).load()
        except CheckpointError:
            raise
        except Exception as error:  # a damaged pickle can raise anything
            raise CheckpointError(f"{file} is damaged: {type(error).__name__}: {error}") from error
