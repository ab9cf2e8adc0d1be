"""Folders of a folder for each class: all that can be read is, and what cannot be is refused or named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from launcher.data.cache import prepared_folder
from launcher.data.class_folders import FILES, suffixes
from launcher.data.media import content_of
from launcher.data.sources import count_rows, files_left_out, read_rows
from launcher.errors import DataError
from launcher.job.sections.data import Source

IMAGES = {"image": "image", "label": "label"}
SOUNDS = {"audio": "audio", "label": "label"}


def filled(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def read(folder: Path, columns: dict[str, str]) -> list[tuple[str, object]]:
    source = Source(source=str(folder))
    rows = list(read_rows(source, columns))
    assert count_rows(source) == len(rows)
    role = next(iter(columns))
    return [(str(Path(str(row.values[role])).relative_to(folder)), row.values.get("label")) for row in rows]


@pytest.mark.parametrize("suffix", [".avif", ".jfif", ".jp2", ".ppm", ".tif", ".WEBP", ".qoi", ".tga", ".ico", ".psd"])
def test_all_that_pillow_reads_is_an_image(suffix: str, tmp_path: Path) -> None:
    folder = filled(tmp_path, f"cat/a{suffix}", "dog/b.png")
    assert read(folder, IMAGES) == [(f"cat/a{suffix}", "cat"), ("dog/b.png", "dog")]


@pytest.mark.parametrize("suffix", [".flac", ".mp3", ".ogg", ".OPUS", ".aiff", ".au"])
def test_all_that_soundfile_reads_is_a_sound_also_where_it_is_a_class_of_its_own(suffix: str, tmp_path: Path) -> None:
    folder = filled(tmp_path, f"hi/a{suffix}", "lo/b.wav")
    assert read(folder, SOUNDS) == [(f"hi/a{suffix}", "hi"), ("lo/b.wav", "lo")]


def test_the_endings_that_are_always_known_are_those_of_an_installed_pillow() -> None:
    assert set(FILES["image"]) <= set(suffixes("image"))
    assert not {".pdf", ".mpg", ".eps", ".h5"} & set(suffixes("image"))


def test_the_class_is_the_first_folder_however_deep_a_file_lies(tmp_path: Path) -> None:
    folder = filled(tmp_path, "cat/2020/may/a.png", "cat/b.png", "dog/old/c.png")
    assert read(folder, IMAGES) == [("cat/2020/may/a.png", "cat"), ("cat/b.png", "cat"), ("dog/old/c.png", "dog")]
    assert len(read(folder / "cat", {"image": "image"})) == 2


def test_links_are_followed_and_a_circle_is_refused(tmp_path: Path) -> None:
    folder, elsewhere = filled(tmp_path / "data", "cat/a.png"), filled(tmp_path / "elsewhere", "b.png", "deep/c.png")
    (folder / "dog").symlink_to(elsewhere)
    assert read(folder, IMAGES) == [("cat/a.png", "cat"), ("dog/b.png", "dog"), ("dog/deep/c.png", "dog")]
    before = prepared_folder(tmp_path, Source(source=str(folder)), {}, IMAGES)
    (elsewhere / "b.png").write_bytes(b"other")
    assert prepared_folder(tmp_path, Source(source=str(folder)), {}, IMAGES) != before
    (folder / "cat" / "all").symlink_to(folder)
    with pytest.raises(DataError, match=r"cat/all: the folder is a link to .*data, which contains it; remove the link"):
        read(folder, IMAGES)


def test_hidden_files_are_left_out_and_others_are_named(tmp_path: Path) -> None:
    folder = filled(tmp_path, "cat/a.png", "cat/.b.png", "cat/Thumbs.db", "__MACOSX/c.png", ".DS_Store", "dog/d.png")
    assert len(read(folder, IMAGES)) == 2
    assert files_left_out(Source(source=str(folder))) == []
    filled(folder, "LICENSE", "cat/notes.txt", "classes.csv", "dog/x.json")
    assert len(read(folder, IMAGES)) == 2
    (line,) = files_left_out(Source(source=(str(folder), str(filled(tmp_path / "a", "x.csv") / "x.csv"))))
    assert line.startswith(f"{folder}: 5 files (LICENSE, a/x.csv, cat/notes.txt and 2 more) skipped")


REFUSED: dict[str, tuple[list[str], dict[str, str], str]] = {
    "heic": (["cat/a.png", "cat/b.HEIC"], IMAGES, r"1 file \(cat/b.HEIC\) cannot be read as image; convert"),
    "m4a": (["a/1.wav", "b/1.m4a", "b/2.aac", "b/3.wma", "b/4.mp4"], SOUNDS, r"4 files \(b/1.* and 1 more\) cannot"),
    "a class of m4a": (["a/1.m4a"], SOUNDS, "cannot be read as audio; convert them .ffmpeg -i FILE FILE.flac"),
    "sounds among images": (["cat/a.png", "cat/b.wav"], IMAGES, r"1 file \(cat/b.wav\) cannot be read as image"),
    "images for sounds": (["cat/a.png"], SOUNDS, r"1 file \(cat/a.png\) cannot be read as audio"),
    "no class": (["a.png", "cat/b.png"], IMAGES, r"1 file \(a.png\) are not in a class folder; move each"),
    "a list": (["a.png", "metadata.csv"], IMAGES, r"are not in a class folder; name their list .*/metadata.csv"),
    "splits": (["train/cat/a.png", "test/cat/b.png"], IMAGES, "its folders are splits, not classes; name one of them"),
    "an empty class": (["cat/a.png", "dog/.keep", "cow/x.txt"], IMAGES, r"2 folders .*\('cow', 'dog'\); add files"),
}  # fmt: skip


@pytest.mark.parametrize(("names", "columns", "said"), REFUSED.values(), ids=REFUSED)
def test_what_would_be_left_out_is_refused_by_name(
    names: list[str], columns: dict[str, str], said: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=said):
        read(filled(tmp_path, *names), columns)


def test_classes_that_are_called_like_splits_are_classes_where_files_lie_in_them(tmp_path: Path) -> None:
    assert len(read(filled(tmp_path, "test/a.png", "train/b.png"), IMAGES)) == 2


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    filled(tmp_path, "cat/a.png")
    (tmp_path / "cat" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"x")
    with pytest.raises(DataError, match=r"the name 'caf\\udce9.png' is not UTF-8; rename it"):
        read(tmp_path, IMAGES)


def test_a_pipe_is_no_image_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(filled(tmp_path, "cat/a.png", "dog/b.png") / "dog" / "c.png")
    rows = list(read_rows(Source(source=str(tmp_path)), IMAGES))
    with pytest.raises(DataError, match=r"row 3: the image .*c.png cannot be read: it is not a regular file"):
        content_of(rows[2], "image")
