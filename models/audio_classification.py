"""Classification of sounds with any `transformers` model that does it. Reads wav files, with Python's own reader."""

from __future__ import annotations

import io
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from launcher.data.rows import Row
from launcher.errors import DataError
from launcher.models.base import Example
from launcher.models.batch import Batch
from launcher.models.classes import Classes

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Sound = NDArray[np.float32]
"""[samples] from -1 to 1, one channel."""


class AudioClassification(Classes):
    """One label for a sound. All are brought to the same length: several models see what they are padded with."""

    auto_class: ClassVar[str] = "AutoModelForAudioClassification"
    processor_class: ClassVar[str] = "AutoFeatureExtractor"
    inputs: ClassVar[tuple[str, ...]] = ("audio",)
    losses: ClassVar[tuple[str, ...]] = ("cross-entropy", "focal")
    settings: ClassVar[tuple[str, ...]] = ("max_seconds",)

    def configure(self, config: PretrainedConfig) -> None:
        """Switch off what a model draws at random by itself: it would follow from the split."""
        super().configure(config)
        for name in ("apply_spec_augment", "layerdrop"):
            if hasattr(config, name):
                setattr(config, name, False if name == "apply_spec_augment" else 0.0)

    def prepare(self, rows: Sequence[Row], *, labelled: bool) -> dict[str, list[Any]]:
        """What the model's feature extractor makes of each sound, flat, and its shape."""
        rate = self.processor.sampling_rate
        count = round(self.train.max_seconds * rate)
        sounds = [np.pad(sound[:count], (0, max(0, count - len(sound)))) for sound in (sound_of(r, rate) for r in rows)]
        features = [
            np.asarray(self.processor(sound, sampling_rate=rate, return_tensors="np")[self._input][0], dtype=np.float32)
            for sound in sounds
        ]
        columns: dict[str, list[Any]] = {"features": [one.ravel() for one in features], "length": [1] * len(rows)}
        return columns | ({"label": self.indices(rows)} if labelled else {})

    @property
    def _input(self) -> str:
        name: str = self.processor.model_input_names[0]
        return name

    def collate(self, examples: Sequence[Example], ids: Sequence[int], epoch: int | None = None) -> Batch:
        """Sounds of one length; filler is silence."""
        targets, weights = self.answers(examples)
        silence = np.zeros(round(self.train.max_seconds * self.processor.sampling_rate), dtype=np.float32)
        found = self.processor(silence, sampling_rate=self.processor.sampling_rate, return_tensors="np")[self._input]
        rows = [example["features"].reshape(found.shape[1:]) for example in examples]
        return Batch(
            inputs={self._input: torch.from_numpy(np.stack(rows) if rows else found)},
            targets=targets,
            weights=weights,
            ids=torch.tensor(list(ids) or [-1]),
            tokens=len(examples),
        )


def sound_of(row: Row, rate: int) -> Sound:
    """The sound of a row, from a wav file's path or bytes; several channels are averaged.

    Raises DataError where it is missing, broken, of another rate, or of a kind that Python does not read.
    """
    value = row.values["audio"]
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    name = f" {Path(row.file).parent / value}" if isinstance(value, str) and value else ""
    if not value or not isinstance(value, str | bytes):
        found = "empty" if not value else f"{type(value).__name__}, neither a path nor bytes"
        raise DataError(row.file, f"the audio is {found}; name the right column or remove the row", row.number)
    try:
        with wave.open(io.BytesIO(value) if isinstance(value, bytes) else name[1:]) as opened:
            frames, width = opened.readframes(opened.getnframes()), opened.getsampwidth()
            channels, found_rate, promised = opened.getnchannels(), opened.getframerate(), opened.getnframes()
    except FileNotFoundError:
        raise DataError(row.file, f"there is no audio{name}; correct the path or remove the row", row.number) from None
    except (OSError, ValueError) as error:
        fault = f"the audio{name} cannot be read: {error}; correct the path or remove the row"
        raise DataError(row.file, fault, row.number) from None
    except (wave.Error, EOFError) as error:
        fault = f"the audio{name} is no wav file of plain samples ({error}); convert it: ffmpeg -i FILE FILE.wav"
        raise DataError(row.file, fault, row.number) from None
    if len(frames) < promised * channels * width or not frames:
        raise DataError(row.file, f"the audio{name} is truncated; replace or remove it", row.number)
    if found_rate != rate or width not in (2, 4):
        fault = f"the audio{name} has {found_rate} samples a second of {8 * width} bits, and the model takes {rate}"
        raise DataError(row.file, f"{fault}, of 16 or 32; convert it: ffmpeg -i FILE -ar {rate} FILE.wav", row.number)
    samples = np.frombuffer(frames, dtype=f"<i{width}").astype(np.float32) / 2 ** (8 * width - 1)
    sound: Sound = samples.reshape(-1, channels).mean(1)
    return sound
