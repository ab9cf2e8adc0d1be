"""Whether a name means a place on this machine or an id of the Hugging Face hub; nothing here raises OSError."""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from pathlib import Path

HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?", re.ASCII)
LONGEST_HUB_ID, LONGEST_NAME, LONGEST_PATH = 96, 255, 4095
"""Characters that the hub allows; bytes that file systems do for one name, and the kernel for a path."""
FILE_SUFFIXES = (
    *(".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar", ".gguf", ".onnx", ".h5", ".msgpack", ".index", ".npz"),
    *(
        ".csv",
        ".tsv",
        ".json",
        ".jsonl",
        ".parquet",
        ".conll",
        ".conllu",
        ".conllup",
        ".txt",
        ".xlsx",
        ".arrow",
        ".zip",
        ".gz",
    ),
    *(".yaml", ".yml", ".py"),
)
"""Endings of files. A name that ends so, or nearly so, is a file's; other dots may be a hub id's (`Qwen2.5-0.5B`)."""


def resolve_from(name: str, folder: Path | None) -> Path:
    """`name` as a path, relative to `folder`; links are kept, since `runs/<name>` may lead elsewhere tomorrow.

    `~` and `~user` are their home; those of a user whom this machine does not know stay as they are written.
    """
    path = Path(os.path.expanduser(name))
    return path if path.is_absolute() or folder is None else folder / path


def is_there(path: Path) -> bool:
    """Whether there is anything; false also for a path that no file system takes."""
    return os.path.exists(path)


def is_file(path: Path) -> bool:
    """Whether there is a file."""
    return os.path.isfile(path)


def is_folder(path: Path) -> bool:
    """Whether there is a folder."""
    return os.path.isdir(path)


def may_be_on_the_hub(name: str, folder: Path | None) -> bool:
    """Whether a name of nothing that is here may be a hub id.

    It is none where it ends as a file does, or where its first part is a folder next to the job file: `runs/nothing` is
    a misspelt path. In a resolved job (`folder` None) such a path has been refused.
    """
    if HUB_ID.fullmatch(name) is None or len(name) > LONGEST_HUB_ID or "--" in name or ".." in name:
        return False
    if name.endswith((".", "-")) or ends_as_a_file(name):
        return False
    first, _, rest = name.partition("/")
    return not rest or folder is None or not is_folder(resolve_from(first, folder))


def ends_as_a_file(name: str) -> bool:
    """Whether a name ends as files do, or nearly so: `model.safetensor`, `train.cvs`."""
    suffix = Path(name).suffix.lower()
    if suffix in FILE_SUFFIXES:
        return True
    return len(suffix) > 3 and suffix[1:].isalpha() and bool(get_close_matches(suffix, FILE_SUFFIXES, n=1, cutoff=0.75))


def not_there(name: str, folder: Path | None, instead: str) -> tuple[str, str]:
    """What is said of a path that leads nowhere, and what to do: the nearest that is there, or `instead`."""
    path = resolve_from(name, folder)
    unusable = why_unusable(name, folder)
    if unusable:
        return unusable, "check the path"
    near = get_close_matches(path.name, _names_in(path.parent), n=1, cutoff=0.75)
    if near:
        return f"there is no {path}", f"did you mean {Path(name).parent / near[0]}?"
    if HUB_ID.fullmatch(name) and "/" in name and is_folder(path.parent):
        first = name.partition("/")[0]
        return f"there is no {path} (read as a path, since the folder {first} is here)", instead
    return f"there is no {path}", instead


def why_unusable(name: str, folder: Path | None) -> str:
    """Why a name cannot be a path here; empty where it can."""
    path, home = resolve_from(name, folder), name.split("/", 1)[0]
    if home.startswith("~") and os.path.expanduser(home) == home and not is_there(path):
        return f"there is no user {home[1:]!r} on this machine, so the path {name} cannot be resolved"
    try:
        parts = [len(os.fsencode(part)) for part in path.parts]
    except UnicodeEncodeError:
        return f"{str(path)[:60]!r} contains half of a character (a lone surrogate), so it is not a valid path"
    if "\0" in str(path):
        return f"{str(path)[:60]!r} contains a NUL character, so it is not a valid path"
    if max(parts, default=0) > LONGEST_NAME or sum(parts) + len(parts) > LONGEST_PATH:
        return f"{str(path)[:60]}... is longer than a path can be ({LONGEST_NAME} bytes a name, {LONGEST_PATH} in all)"
    return ""


def _names_in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (OSError, ValueError):
        return []
