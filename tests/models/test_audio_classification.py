"""Sounds: what the feature extractor makes of them, whatever the batch; and bad files."""

from __future__ import annotations

import io
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor

from launcher.data.rows import Row
from launcher.errors import DataError
from launcher.job.sections.training import Train
from launcher.models.parts.sounds import sound_of
from launcher.models.tasks.audio_classification import AudioClassification
from tests.families import wav2vec2


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> AudioClassification:
    processor = AutoFeatureExtractor.from_pretrained(wav2vec2(tmp_path_factory.mktemp("wav2vec2")))
    return AudioClassification(processor, ("a", "b"), Train(max_seconds=0.5))


def wav(samples: Any, rate: int = 1600, width: int = 2) -> bytes:
    kept = io.BytesIO()
    samples = np.atleast_2d(np.asarray(samples)).T
    with wave.open(kept, "wb") as opened:
        opened.setparams((samples.shape[1], width, rate, 0, "NONE", ""))
        opened.writeframes((samples * 2 ** (8 * width - 1)).astype(f"<i{width}").tobytes())
    return kept.getvalue()


def row(audio: Any, file: str = "f.parquet") -> Row:
    return Row(file, 2, {"audio": audio, "label": "a"})


@pytest.mark.parametrize("width", [2, 4])
def test_a_sound_is_read_from_bytes_and_files_and_channels_are_averaged(width: int, tmp_path: Path) -> None:
    tone = np.sin(np.arange(100) / 5) / 2
    (tmp_path / "a.wav").write_bytes(wav([tone, np.zeros(100)], width=width))
    rows = [row("a.wav", str(tmp_path / "f.csv")), row({"bytes": wav(tone / 2, width=width)})]
    for sound in (sound_of(one, 1600) for one in rows):
        np.testing.assert_allclose(sound, tone / 2, atol=1e-4)


def test_features_are_those_of_the_extractor_over_one_length_for_all(task: AudioClassification) -> None:
    tones = [np.sin(np.arange(n) / 5) / 2 for n in (300, 800, 1200)]
    columns = task.prepare([row(wav(tone)) for tone in tones], labelled=True)
    some = [{name: values[i] for name, values in columns.items()} for i in range(3)]
    batch = task.collate(some, range(3))
    same = [np.pad(tone[:800], (0, max(0, 800 - len(tone)))).astype(np.float32) for tone in tones]
    expected = task.processor(same, sampling_rate=1600, return_tensors="pt")["input_values"]
    torch.testing.assert_close(batch.inputs["input_values"], expected, rtol=1e-3, atol=1e-3)
    assert torch.equal(task.collate(some[:1], [0]).inputs["input_values"][0], batch.inputs["input_values"][0])


TONE = np.sin(np.arange(400) / 5)
BAD: dict[str, tuple[Any, str]] = {
    "not a wav": (b"ID3 an mp3", "cannot be read: .* convert it: ffmpeg"),
    "cut in the header": (wav(TONE)[:20], "is truncated"),
    "truncated": (wav(TONE)[:500], "is truncated; replace or remove it"),
    "another rate": (wav(TONE, rate=44100), "has a sampling rate of 44100 Hz, and the model needs 1600 Hz"),
    "empty": ("", "the audio is empty"),
    "missing": ("nowhere.wav", "there is no audio .*nowhere.wav"),
    "a folder": (".", "cannot be read: .*directory.*; correct the path"),
    "no path": ("a\0b", "cannot be read: embedded null byte"),
    "a number": (3, "the audio is int, neither a path nor bytes"),
}


@pytest.mark.parametrize(("audio", "said"), BAD.values(), ids=BAD)
def test_a_bad_sound_is_told_with_its_place(audio: Any, said: str, task: AudioClassification) -> None:
    with pytest.raises(DataError, match=rf"f\.parquet, row 2: .*({said})"):
        task.prepare([row(audio)], labelled=True)
