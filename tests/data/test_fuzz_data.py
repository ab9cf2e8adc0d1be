"""Damaged data files give rows or a DataError, whatever the damage. Nothing else may come out.

A case follows from (seed, format, number) alone. ADAPTRUN_FUZZ_SEED repeats a day's seed.
"""

from __future__ import annotations

import io
import json
import random
import shutil
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from launcher.data.fingerprints import fingerprint
from launcher.data.rows import Row
from launcher.data.sources import count_rows, read_rows
from launcher.data.values import label_of, labels_of, list_of, number_of, text_of
from launcher.errors import DataError
from launcher.job.sections.data import Source
from launcher.models.parts.images import image_of
from launcher.models.parts.sounds import sound_of
from tests.fuzzing import seed_of_the_day

FEW, MANY = 40, 10_000
PIECES = [
    *(b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b'"', b"'", b"\t", b",", b"\n", b"\r", b"\n\n", b"#", b"# x = 1\n"),
    *(b"\\ud800", b"\\u0000", b"\xed\xa0\x80", b"[" * 3000, b'{"a":' * 3000, b"9" * 5000, b"1e999", b"NaN", b"null"),
    *(b"{}", b"[]", b"]}", b"true", b"-", b"_", b"\xc2\x85", b"\xe2\x80\xa8", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"),
    *(b"\0\0\0\0", b"\0" * 64, b"text", b"label", b'"text": 1, ', b"1-2\t", b"1.1\t", b"-DOCSTART-\n"),
]
"""What is put into files: what their readers trip over, where anything does."""


def texts(draw: random.Random, rows: int = 6) -> list[str]:
    return ["".join(draw.choices("ab é日🙂\"',#\\", k=draw.randint(1, 12))) for _ in range(rows)]


def delimited(separator: str) -> Callable[[random.Random], bytes]:
    def write(draw: random.Random) -> bytes:
        rows = [f"{json.dumps(text, ensure_ascii=False) if draw.random() < 0.5 else 'plain'}{separator}b\n"
                for text in texts(draw)]  # fmt: skip
        return f"text{separator}label\n{''.join(rows)}".encode()

    return write


def jsonl(draw: random.Random) -> bytes:
    values = [1, 2.5, None, ["a", "b"], {"role": "user", "content": "x"}, "y", True]
    rows = [
        json.dumps({"text": text, "label": draw.choice(values), "more": draw.choice(values)}) for text in texts(draw)
    ]
    return "\n".join(rows).encode()


def conll(draw: random.Random) -> bytes:
    lines = [f"{draw.choice(['word', '#', 'Ünï', '1'])} N {draw.choice(['O', 'B-X'])}" for _ in range(9)]
    return ("# id 1\n" + "\n".join(lines[:5]) + "\n\n" + "\n".join(lines[5:]) + "\n").encode()


def conllu(draw: random.Random) -> bytes:
    lines = [f"{number}\tw{number}\tl\t{draw.choice(['NOUN', 'VERB'])}\t_\t_\t0\troot\t_\t_" for number in range(1, 6)]
    return ("# sent_id = 1\n1-2\tx" + "\t_" * 8 + "\n" + "\n".join(lines) + "\n\n").encode()


def parquet(draw: random.Random) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    held = io.BytesIO()
    table = pa.table({"text": texts(draw), "label": [draw.randint(0, 2) for _ in range(6)], "more": [[1, 2]] * 6})
    compression = draw.choice(["none", "snappy", "gzip", "zstd"])
    pq.write_table(table, held, compression=compression, use_dictionary=draw.random() < 0.5, row_group_size=3)
    return held.getvalue()


def wav(draw: random.Random) -> bytes:
    held = io.BytesIO()
    with wave.open(held, "wb") as opened:
        opened.setparams((draw.randint(1, 2), draw.randint(1, 4), 1600, 0, "NONE", ""))
        opened.writeframes(bytes(draw.choices(range(256), k=480)))
    return held.getvalue()


def sound(kind: str, coding: str | None = None) -> Callable[[random.Random], bytes]:
    def write(draw: random.Random) -> bytes:
        import soundfile

        held = io.BytesIO()
        tone = np.sin(np.arange(4000) / (3 + 9 * draw.random()))
        soundfile.write(held, tone, 16000, format=kind, subtype=coding)
        return held.getvalue()

    return write


def picture(kind: str) -> Callable[[random.Random], bytes]:
    def write(draw: random.Random) -> bytes:
        from PIL import Image

        held = io.BytesIO()
        values = np.frombuffer(bytes(draw.choices(range(256), k=300)), dtype=np.uint8)
        Image.fromarray(values.reshape(10, 10, 3)).save(held, kind)
        return held.getvalue()

    return write


TEXTS: dict[str, Callable[[random.Random], bytes]] = {
    "a.csv": delimited(","),
    "a.tsv": delimited("\t"),
    "a.jsonl": jsonl,
    "a.conll": conll,
    "a.conllu": conllu,
    "a.parquet": parquet,
}
MEDIA: dict[str, tuple[str, Callable[[random.Random], bytes]]] = {
    "wav": ("audio", wav),
    "flac": ("audio", sound("FLAC")),
    "ogg": ("audio", sound("OGG")),
    "mp3": ("audio", sound("MP3")),
    "aiff": ("audio", sound("AIFF")),
    **{kind: ("image", picture(kind)) for kind in ("png", "jpeg", "gif", "webp", "tiff", "bmp", "ppm", "avif")},
}


def damaged(content: bytes, draw: random.Random) -> bytes:
    """The content with one to three faults."""
    for _ in range(draw.randint(1, 3)):
        place = draw.randint(0, len(content))
        end = min(len(content), place + draw.choice([1, 1, 4, 16, 200]))
        kind = draw.choice(["flip", "noise", "cut", "leave out", "twice", "put in", "put in", "in place"])
        if kind == "flip" and content:
            place = min(place, len(content) - 1)
            content = content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :]
        elif kind == "noise":
            content = content[:place] + draw.randbytes(end - place) + content[end:]
        elif kind == "cut":
            content = content[:place]
        elif kind == "leave out":
            content = content[:place] + content[end:]
        elif kind == "twice":
            content = content[:end] + content[place:]
        else:
            piece = draw.choice(PIECES)
            content = content[:place] + piece + content[place + (len(piece) if kind == "in place" else 0) :]
    return content


def read_all(source: Source, columns: dict[str, str]) -> None:
    """Read as all tasks do. Nothing but a DataError may come out."""
    try:
        count_rows(source)
        rows = list(read_rows(source, columns))
    except DataError:
        return
    for row in rows:
        for value_of in (text_of, label_of, labels_of, number_of, list_of):
            try:
                value_of(row, next(iter(columns)) if value_of in (text_of, list_of) else "label")
            except DataError:
                continue
        fingerprint(row, ("label",))


def check_text(name: str, seed: int, number: int, folder: Path) -> None:
    draw = random.Random(f"{seed} {name} {number}")
    (folder / name).write_bytes(damaged(TEXTS[name](draw), draw))
    words = "words" if ".conll" in name else "text"
    for quoting in (None, True):
        read_all(Source(source=str(folder / name), quoting=quoting), {words: words, "label": "label"})


def check_media(kind: str, seed: int, number: int, folder: Path) -> None:
    draw = random.Random(f"{seed} {kind} {number}")
    role, write = MEDIA[kind]
    row = Row(str(folder / "a.parquet"), 3, {role: damaged(write(draw), draw)})
    try:
        if role == "image":
            assert image_of(row).mode == "RGB"
        else:
            assert np.isfinite(sound_of(row, 16000 if kind != "wav" else 1600)).all()
    except DataError:
        return


def check_saved(seed: int, number: int, folder: Path) -> None:
    draw = random.Random(f"{seed} saved {number}")
    copy = folder / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder / "saved", copy)
    file = draw.choice(sorted(file for file in copy.rglob("*") if file.is_file()))
    file.write_bytes(damaged(file.read_bytes(), draw))
    read_all(Source(source=str(copy), split="dev"), {"text": "text", "label": "label"})


@pytest.fixture
def with_saved(tmp_path: Path) -> Path:
    from datasets import ClassLabel, Dataset, DatasetDict, disable_progress_bars

    disable_progress_bars()
    data = Dataset.from_dict({"text": texts(random.Random(0)), "label": [0, 1] * 3})
    data = data.cast_column("label", ClassLabel(names=["bad", "good"]))
    DatasetDict({"dev": data}).save_to_disk(str(tmp_path / "saved"))
    return tmp_path


def each(check: Callable[[int], None], seed: int, cases: int) -> None:
    for number in range(cases):
        try:
            check(number)
        except BaseException as error:
            raise AssertionError(f"case {number} of seed {seed}: {type(error).__name__}: {error}") from error


@pytest.mark.parametrize("name", TEXTS)
def test_a_damaged_file_gives_rows_or_a_message(name: str, tmp_path: Path) -> None:
    each(lambda number: check_text(name, 14, number, tmp_path), 14, FEW)


@pytest.mark.parametrize("kind", MEDIA)
def test_a_damaged_sound_or_image_gives_one_or_a_message(kind: str, tmp_path: Path) -> None:
    each(lambda number: check_media(kind, 14, number, tmp_path), 14, FEW // 2)


def test_a_damaged_folder_of_datasets_gives_rows_or_a_message(with_saved: Path) -> None:
    each(lambda number: check_saved(14, number, with_saved), 14, FEW)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", TEXTS)
def test_many_damaged_files(name: str, tmp_path: Path) -> None:
    seed = seed_of_the_day()
    each(lambda number: check_text(name, seed, number, tmp_path), seed, MANY // 10)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", MEDIA)
def test_many_damaged_sounds_and_images(kind: str, tmp_path: Path) -> None:
    seed = seed_of_the_day()
    each(lambda number: check_media(kind, seed, number, tmp_path), seed, MANY // 20)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_damaged_folders_of_datasets(with_saved: Path) -> None:
    seed = seed_of_the_day()
    each(lambda number: check_saved(seed, number, with_saved), seed, MANY // 10)
