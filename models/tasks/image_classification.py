"""Image classification with any `transformers` model for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from launcher.data.rows import Row
from launcher.models.parts.batch import Batch
from launcher.models.parts.images import augmented, image_of, scaled, sized
from launcher.models.tasks.base import Example, TaskModule
from launcher.models.tasks.classes import Classes, Classification, Classifier, LabelSets

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ImageClassifier(Classifier):
    """Batch normalisation keeps the pretrained statistics, since batch statistics would depend on the split."""

    def train(self, mode: bool = True) -> ImageClassifier:
        """Set the training mode, except of batch normalisation."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.training = False
        return self


class Images(Classification):
    """What single-label and multi-label image classification have in common."""

    auto_class: ClassVar[str] = "AutoModelForImageClassification"
    has_features: ClassVar[bool] = True
    processor_class: ClassVar[str] = "AutoImageProcessor"
    inputs: ClassVar[tuple[str, ...]] = ("image",)
    settings: ClassVar[tuple[str, ...]] = ("augment",)
    counted_in: ClassVar[str] = "images"

    def pixels(self, rows: Sequence[Row]) -> dict[str, list[Any]]:
        """Columns `pixels` (flat) and their shape; all images have the same cost."""
        images = sized(self.processor, (image_of(row) for row in rows))
        return {
            "pixels": [image.ravel() for image in images],
            "height": [image.shape[1] for image in images],
            "width": [image.shape[2] for image in images],
            "length": [1] * len(images),
        }

    def pictured(self, examples: Sequence[Example], ids: Sequence[int], epoch: int | None) -> torch.Tensor:
        """[samples, channels, height, width] scaled pixels; augmented in training."""
        images = []
        for example, sample in zip(examples, ids, strict=True):
            image = example["pixels"].reshape(-1, example["height"], example["width"])
            if epoch is not None:
                image = augmented(image, self.train.augment, np.random.default_rng([self.train.seed, epoch, sample]))
            images.append(image)
        return torch.from_numpy(scaled(np.stack(images), self.processor))

    def build(self, model: PreTrainedModel) -> TaskModule:
        """The model with its loss."""
        return ImageClassifier(model, self, self.class_weights())


class ImageClassification(Images, Classes):
    """One label per image."""

    variants: ClassVar[dict[str, str]] = {"binary": "MultiLabelImageClassification"}

    def prepare(self, rows: Sequence[Row], *, labelled: bool) -> dict[str, list[Any]]:
        """Pixels, and label indices."""
        return self.pixels(rows) | ({"label": self.indices(rows)} if labelled else {})

    def collate(self, examples: Sequence[Example], ids: Sequence[int], epoch: int | None = None) -> Batch:
        """Images of one size."""
        targets, weights = self.answers(examples)
        return Batch(
            inputs={"pixel_values": self.pictured(examples, ids, epoch)},
            targets=targets,
            weights=weights,
            ids=torch.tensor(list(ids)),
            tokens=len(examples),
        )


class MultiLabelImageClassification(Images, LabelSets):
    """Any number of labels per image."""

    prepare, collate = ImageClassification.prepare, ImageClassification.collate
