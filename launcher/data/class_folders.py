"""Rows of a folder that holds a folder of files for each class: the file's path, and the class's name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from launcher.errors import DataError

FILES = {
    "image": (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    "audio": (".wav",),
}
"""For each role that a file may have, how such files end."""
ALL = tuple(suffix for suffixes in FILES.values() for suffix in suffixes)


def is_class_folder(folder: Path) -> bool:
    """Whether files of some kind lie in the folder's folders, or in itself."""
    return any(file.suffix.lower() in ALL for pattern in ("*/*", "*") for file in folder.glob(pattern))


def read_class_folders(folder: Path, columns: Mapping[str, str]) -> Iterator[tuple[int, dict[str, object]]]:
    """Number and values by role of each file, in the order of their paths; hidden ones are left out.

    Without the role `label`, files may also lie in the folder itself. Raises DataError.
    """
    role = next((role for role in columns if role in FILES), None)
    strange = [role for role in columns if role not in FILES and role != "label"]
    if strange or (columns and role is None):
        lost = (*strange, "text")[0]
        raise DataError(folder, f"a folder of files has no column {lost!r}; name a file that has")
    number = 0
    for file in _files(folder, FILES[role] if role else ALL, labelled="label" in columns):
        number += 1
        values: dict[str, object] = {"label": file.parent.name}
        yield number, ({role: str(file)} if role else {}) | {key: values[key] for key in columns if key in values}
    if number == 0:
        kinds = ", ".join(FILES[role] if role else ALL)
        raise DataError(folder, f"there is no file of a kind that can be read ({kinds}) in a folder for each class")


def _files(folder: Path, suffixes: tuple[str, ...], labelled: bool) -> list[Path]:
    patterns = ("*/*",) if labelled else ("*", "*/*")
    found = [file for pattern in patterns for file in folder.glob(pattern) if file.suffix.lower() in suffixes]
    return sorted(file for file in found if not any(part.startswith(".") for part in file.relative_to(folder).parts))
