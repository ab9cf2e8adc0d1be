"""Whose code may run: that of files which the user names, in the job or as `--trust-code`.

A model folder, the model of a run and adapters are data, also where they name code: the function that builds a model,
the class of a task. What they name runs only where the user names the same file.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from launcher.errors import UntrustedCode
from launcher.job.own_files import with_imports
from launcher.job.own_function import defines
from launcher.job.places import resolve_from


def trusted_code(location: str, named_in: Path, trusted: Sequence[str]) -> str:
    """The place of `file.py:name`, which a folder names, where the user has named the file as well.

    named_in: the file of the folder that names it
    trusted: what the user has named; a file of the same name stands for one that is no longer where it was
    Raises UntrustedCode with the file, its hash and the way out, and for what the file does not define itself: an
    imported function would be code of another file.
    """
    file, colon, name = location.rpartition(":")
    if not colon:
        file, name = location, ""
    wanted = resolve_from(file, None)
    if not wanted.is_absolute():
        wanted = named_in.parent / wanted
    try:
        is_here = wanted.is_file()
        for own in map(Path, trusted):
            if own.resolve() == wanted.resolve() or (not is_here and own.name == wanted.name):
                return _defined(own.resolve(), name, named_in)
        seen = sha256_of(wanted) if is_here else None
    except (OSError, ValueError):
        seen = None
    raise UntrustedCode(_refusal(_printable(str(wanted) if seen else file), _printable(name), named_in, seen))


def _defined(file: Path, name: str, named_in: Path) -> str:
    if name and not defines(file, name):  # without a name, whoever needs one says so
        raise UntrustedCode(
            f"{named_in} names {_printable(name)} of {file} (sha256 {sha256_of(file)}), which is no "
            "function or class at the top level of this file; define it there with def or class to let it run"
        )
    return f"{file}:{name}"


def _refusal(file: str, name: str, named_in: Path, sha256: str | None) -> str:
    begin = f"{named_in} asks to run {f'{name} of ' if name else ''}{file}"
    if sha256 is None:
        own = f"WHERE-IT-IS/{Path(file).name}"
        return (
            f"{begin}, which does not exist here. Code that a folder names runs only if you name its file too; "
            f"--trust-code {own}, or in a job model.trust_code: [{own}]"
        )
    return (
        f"{begin} (sha256 {sha256}). Code that a folder names runs only if you name its file too; "
        f"read the file, then pass --trust-code {shlex.quote(file)}, or in a job model.trust_code: [{file}]"
    )


def notices_of_code(files: Iterable[str]) -> list[str]:
    """A line for each file whose code may run, the modules next to it that it imports among them."""
    every = dict.fromkeys(one for file in files for one in with_imports(Path(file)))
    return [f"own code: {file} (sha256 {sha256_of(file)})" for file in every]


def sha256_of(file: Path) -> str:
    """Of a file's content."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def file_of(location: str) -> str:
    """`/path/file.py:name` → `/path/file.py`."""
    return location.rpartition(":")[0]


def _printable(text: str) -> str:
    """A name as a folder has it, without what would move the terminal's cursor."""
    return text if text.isprintable() else repr(text)
