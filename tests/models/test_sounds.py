"""Sounds of all kinds: the samples that were written come out, and what is cut is refused."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from launcher.data.rows import Row
from launcher.errors import DataError
from launcher.models.parts import sounds
from launcher.models.parts.sounds import sound_of
from tests.models.test_audio_classification import wav

TONE = np.sin(np.arange(4800) / 20) / 2
KINDS = {
    **{f"wav of {coding}": ("WAV", coding, 2e-2) for coding in ("PCM_U8", "PCM_24", "FLOAT", "DOUBLE", "ULAW")},
    **{kind: (kind, None, 1e-4) for kind in ("FLAC", "AIFF", "AU", "CAF", "W64", "RF64", "WAVEX")},
    "mp3": ("MP3", None, 5e-2),
    "vorbis": ("OGG", "VORBIS", 5e-2),
    "opus": ("OGG", "OPUS", 1e-1),
}


def row(audio: Any) -> Row:
    return Row("f.parquet", 2, {"audio": audio})


def written(kind: str, coding: str | None, channels: int = 2) -> bytes:
    held = io.BytesIO()
    soundfile.write(held, np.stack([TONE] * channels, 1), 16000, format=kind, subtype=coding)
    return held.getvalue()


@pytest.mark.parametrize(("kind", "coding", "near"), KINDS.values(), ids=KINDS)
def test_a_sound_of_any_kind_is_read(kind: str, coding: str | None, near: float) -> None:
    found = sound_of(row(written(kind, coding)), 16000)
    assert found.shape == TONE.shape
    np.testing.assert_allclose(found[200:-200], TONE[200:-200], atol=near)


@pytest.mark.parametrize(("kind", "coding", "near"), KINDS.values(), ids=KINDS)
def test_a_sound_of_any_kind_that_is_cut_is_refused(kind: str, coding: str | None, near: float) -> None:
    whole = written(kind, coding)
    for share in (0.02, 0.6):
        with pytest.raises(DataError, match=r"row 2: the audio (is truncated|cannot be read)"):
            sound_of(row(whole[: int(len(whole) * share)]), 16000)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0x7FFFF000])
@pytest.mark.parametrize("kind", [None, "PCM_24"])
def test_a_wav_file_that_came_through_a_pipe_is_read_to_its_end(size: int, kind: str | None) -> None:
    content = bytearray(wav(TONE, rate=16000) if kind is None else written("WAV", kind, 1))
    place = content.index(b"data")
    content[4:8] = content[place + 4 : place + 8] = struct.pack("<I", size)
    np.testing.assert_allclose(sound_of(row(bytes(content)), 16000), TONE, atol=1e-4)
    np.testing.assert_allclose(sound_of(row(bytes(content[:-1])), 16000), TONE[:-1], atol=1e-4)


def test_a_sound_without_samples_is_told_though_other_pieces_follow() -> None:
    content = bytearray(wav(TONE[:0], rate=16000)) + b"LIST" + struct.pack("<I", 4) + b"INFO"
    content[4:8] = struct.pack("<I", len(content) - 8)
    with pytest.raises(DataError, match="is truncated: it has no samples"):
        sound_of(row(bytes(content)), 16000)


def test_samples_that_are_no_numbers_are_refused() -> None:
    held = io.BytesIO()
    soundfile.write(held, np.array([0.1, np.nan, 0.2]), 16000, format="WAV", subtype="FLOAT")
    with pytest.raises(DataError, match="has NaN or infinite samples"):
        sound_of(row(held.getvalue()), 16000)


def test_without_soundfile_plain_wav_files_are_read_and_others_name_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sounds.importlib.util, "find_spec", lambda name: None)
    np.testing.assert_allclose(sound_of(row(wav(TONE, rate=16000)), 16000), TONE, atol=1e-4)
    (tmp_path / "a.flac").write_bytes(written("FLAC", None))
    with pytest.raises(DataError, match=r'a\.flac is not a wav file .* soundfile: pip install "adaptrun\[sounds\]"'):
        sound_of(row(str(tmp_path / "a.flac")), 16000)
