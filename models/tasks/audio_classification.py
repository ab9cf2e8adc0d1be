"""Audio classification with any `transformers` model for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from launcher.data.rows import Row
from launcher.models.parts.batch import Batch
from launcher.models.parts.sounds import sound_of
from launcher.models.tasks.base import Example
from launcher.models.tasks.classes import Classes

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class AudioClassification(Classes):
    """One label per sound. All are padded or cut to the same length, since several models attend to padding."""

    auto_class: ClassVar[str] = "AutoModelForAudioClassification"
    processor_class: ClassVar[str] = "AutoFeatureExtractor"
    inputs: ClassVar[tuple[str, ...]] = ("audio",)
    losses: ClassVar[tuple[str, ...]] = ("cross-entropy", "focal")
    settings: ClassVar[tuple[str, ...]] = ("max_seconds",)
    counted_in: ClassVar[str] = "sounds"

    def configure(self, config: PretrainedConfig) -> None:
        """Switch off a model's own random augmentation, which would depend on how a batch is split."""
        super().configure(config)
        for name in ("apply_spec_augment", "layerdrop"):
            if hasattr(config, name):
                setattr(config, name, False if name == "apply_spec_augment" else 0.0)

    def prepare(self, rows: Sequence[Row], *, labelled: bool) -> dict[str, list[Any]]:
        """The feature extractor's output for each sound, flattened, and its shape."""
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
        """Sounds of one length."""
        targets, weights = self.answers(examples)
        silence = np.zeros(round(self.train.max_seconds * self.processor.sampling_rate), dtype=np.float32)
        found = self.processor(silence, sampling_rate=self.processor.sampling_rate, return_tensors="np")[self._input]
        shape = found.shape[1:]
        rows = [example["features"].reshape(shape) for example in examples]
        return Batch(
            inputs={self._input: torch.from_numpy(np.stack(rows))},
            targets=targets,
            weights=weights,
            ids=torch.tensor(list(ids)),
            tokens=len(examples),
        )
