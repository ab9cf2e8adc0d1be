"""Rows of a folder with one subfolder of files per class: the file's path, and the class's name.

The class is the first subfolder, at any depth, as in torchvision's ImageFolder. Nothing is skipped silently: an
unreadable sample is an error that names it, and `left_out` lists files of other kinds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from launcher.data.columnar import is_saved
from launcher.errors import DataError

FILES = {
    "image": (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".avif", ".jp2", ".ppm"),
    "audio": (
        *(".wav", ".wave", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".aifc"),
        *(".au", ".snd", ".caf", ".w64", ".rf64", ".bwf"),
    ),
}
"""File suffixes of each role; for images also those of Pillow."""
UNREAD = {
    "image": (".heic", ".heif", ".hif", ".jxl", ".svg", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".exr", ".pdf"),
    "audio": (".m4a", ".m4b", ".aac", ".wma", ".amr", ".mp2", ".ac3", ".ape", ".wv", ".alac", ".mka", ".mid", ".midi"),
    "video": (".mp4", ".webm", ".mkv", ".mov", ".avi", ".wmv", ".flv", ".3gp", ".m4v", ".mpg", ".mpeg"),
}
"""Suffixes of files that look like samples and are not supported."""
NO_PICTURES = (".pdf", ".mpg", ".mpeg", ".h5", ".hdf", ".grib", ".bufr", ".eps", ".ps", ".wmf", ".emf", ".fit", ".fits")
"""Suffixes that Pillow opens and cannot decode by itself, or that are not pictures."""
UNSEEN = ("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx")
"""Files of file managers, which are ignored as hidden files are."""
SPLITS = ("train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval")
LISTS = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Files in which `datasets` looks for the labels of a folder of files."""
SHOWN = 3


def is_class_folder(folder: Path) -> bool:
    """Whether a folder contains images, sounds or videos at any depth, and was not saved by `datasets`."""
    if not folder.is_dir() or is_saved(folder):
        return False
    return any(_kind(file) is not None for file in _unsorted(folder))


def read_class_folders(folder: Path, columns: Mapping[str, str]) -> Iterator[tuple[int, dict[str, object]]]:
    """Number and values by role of each file, in the order of their paths, without hidden files.

    Without the role `label`, files may also be in the folder itself. Raises DataError, also for files that look like
    samples and are not readable or have no class.
    """
    role = next((role for role in columns if role in FILES), None)
    strange = [role for role in columns if role not in FILES and role != "label"]
    if strange or (columns and role is None):
        lost = (*strange, "text")[0]
        raise DataError(folder, f"a folder of files has no column {lost!r}; name a file that has one")
    files = _samples(folder, role)
    if "label" in columns:
        _check_classes(folder, files)
    for number, file in enumerate(files, start=1):
        values: dict[str, object] = {"label": file.relative_to(folder).parts[0]}
        yield number, ({role: str(file)} if role else {}) | {key: values[key] for key in columns if key in values}


def left_out(folder: Path) -> list[Path]:
    """Files of a class folder whose names are not those of samples, such as a list or a licence."""
    return [file for file in files_within(folder) if _kind(file) is None]


def some(files: Sequence[Path], folder: Path) -> str:
    """The number of files, and the first of them, as text."""
    shown = ", ".join(file.relative_to(folder).as_posix() for file in files[:SHOWN])
    more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
    return f"{len(files)} file{'s' * (len(files) != 1)} ({shown}{more})"


def _samples(folder: Path, role: str | None) -> list[Path]:
    """The files of a role, or of the only role that has files. Raises DataError if there are files of other roles."""
    found: dict[str, list[Path]] = {}
    for file in files_within(folder):
        if (kind := _kind(file)) is not None:
            found.setdefault(kind, []).append(file)
    wanted = role or next((kind for kind in FILES if kind in found), "image")
    samples = found.pop(wanted, [])
    if found:
        others = sorted(file for files in found.values() for file in files)
        fix = "convert them to png" if wanted == "image" else "convert them (ffmpeg -i FILE FILE.flac)"
        raise DataError(folder, f"{some(others, folder)} cannot be read as {wanted}; {fix}, or move them elsewhere")
    if not samples:
        kinds = ", ".join(suffixes(wanted))
        raise DataError(folder, f"there is no file of a supported kind ({kinds})")
    return samples


def _check_classes(folder: Path, files: Sequence[Path]) -> None:
    """Raises DataError for files without a class, a class without files, and folders that are not classes."""
    loose = [file for file in files if file.parent == folder]
    if loose:
        lists = [file for name in LISTS if (file := folder / name).is_file()]
        fix = f"name their list as the source ({lists[0]})" if lists else "move each into the folder of its class"
        raise DataError(folder, f"{some(loose, folder)} are not in a class folder; {fix}")
    classes = {file.relative_to(folder).parts[0] for file in files}
    if all(name.lower() in SPLITS for name in classes) and all(file.parent.parent != folder for file in files):
        named = " or ".join(str(folder / name) for name in sorted(classes))
        raise DataError(folder, f"its folders are splits, not classes; name one of them as the source: {named}")
    empty = [place.name for place in sorted(folder.iterdir()) if place.is_dir() and not _is_unseen(place.name)]
    empty = [name for name in empty if name not in classes]
    if empty:
        shown = ", ".join(repr(name) for name in empty[:SHOWN])
        raise DataError(
            folder, f"{len(empty)} folders have no readable file ({shown}); add files or remove the folders"
        )


@cache
def suffixes(role: str) -> tuple[str, ...]:
    """The supported file suffixes of a role."""
    if role != "image":
        return FILES[role]
    try:
        from PIL import Image
    except ImportError:  # reported when the first image is read
        return FILES[role]
    opened = {suffix for suffix, name in Image.registered_extensions().items() if name in Image.OPEN}
    return tuple(sorted(opened - set(NO_PICTURES)))


def _kind(file: Path) -> str | None:
    """The role of a file by its name, `unread` for an unsupported sample, None for a file that is not a sample."""
    suffix = file.suffix.lower()
    readable = next((role for role in FILES if suffix in suffixes(role)), None)
    if readable is None and any(suffix in unread for unread in (*UNREAD.values(), FILES["image"])):
        return "unread"
    return readable


def files_within(folder: Path) -> list[Path]:
    """The files of a folder and its subfolders, sorted, links followed, without hidden files.

    Raises DataError for a folder that cannot be read, or that contains itself.
    """
    return sorted(_unsorted(folder))


def _unsorted(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    real = folder.resolve()
    if real in above:
        raise DataError(folder, f"the folder is a link to {real}, which contains it; remove the link")
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise DataError(folder, f"the folder cannot be read: {error.strerror}") from None
    for entry in entries:
        if _is_unseen(entry.name):
            continue
        if not entry.name.isascii() and entry.name != entry.name.encode(errors="replace").decode():
            raise DataError(folder, f"the name {entry.name!r} is not UTF-8; rename it")
        if entry.is_dir():
            yield from _unsorted(folder / entry.name, (*above, real))
        else:
            yield folder / entry.name


def _is_unseen(name: str) -> bool:
    return name.startswith(".") or name.lower() in UNSEEN
