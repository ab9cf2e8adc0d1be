"""Images: read from a row, resized to the model's size once, augmented in training."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from launcher.data.media import content_of
from launcher.data.rows import Row
from launcher.errors import DataError, ModelError
from launcher.job.sections.training import Augment

Pixels = NDArray[np.uint8]
"""[channels, height, width]."""


def image_of(row: Row) -> Any:
    """The image of a row, in RGB: from a path, relative to the data file, or from bytes.

    Raises DataError if it is missing, truncated, not an image, or has more than 8 bits.
    """
    value = row.values["image"]
    name = ""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        fix = 'pip install "adaptrun[images]"'
        raise ModelError(f"reading images needs the package pillow, which is not installed: {fix}") from None
    try:
        if isinstance(value, Image.Image):
            return _in_rgb(value, row, name)
        content, path = content_of(row, "image")
        name = f" {path}" if path else ""
        return _in_rgb(Image.open(io.BytesIO(content)), row, name)
    except DataError:
        raise
    except UnidentifiedImageError:
        fault = f"the image{name} is not of a supported format; convert it to png or jpeg, or remove the row"
        raise DataError(row.file, fault, row.number) from None
    except Exception as error:  # damaged files make the reader raise errors of any type
        said = str(error) or type(error).__name__
        raise DataError(row.file, f"the image{name} is broken: {said}; replace or remove it", row.number) from None


def _in_rgb(image: Any, row: Row, name: str) -> Any:
    """The image in RGB. Images of 16 bits are refused, since Pillow clips values above 255."""
    if image.mode.partition(";")[0] in ("I", "F"):
        fault = f"the image{name} has more than 8 bits per pixel and channel ({image.mode})"
        raise DataError(row.file, f"{fault}; scale it to 8 bits, or remove the row", row.number)
    return image.convert("RGB")


def sized(processor: Any, images: Iterable[Any]) -> list[Pixels]:
    """Images resized and cropped by the model's processor, one at a time, before their values are scaled.

    Raises ModelError if the processor returns different sizes, or does more than that.
    """
    plain: list[NDArray[Any]] = []
    for image in images:
        pixels = processor(image, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
        if not plain:
            _check_scaling(processor, image, np.asarray(pixels))
        plain.append(np.asarray(pixels))
    sizes = sorted({pixels.shape for pixels in plain})
    if len(sizes) > 1:
        shown = " and ".join(f"{width} × {height}" for _, height, width in sizes[:2])
        raise ModelError(
            f"the model's image processor makes images of different sizes ({shown}); set "
            "both its `size` and `crop_size`"
        )
    return [np.clip(np.rint(pixels), 0, 255).astype(np.uint8) for pixels in plain]


def _check_scaling(processor: Any, image: Any, pixels: NDArray[Any]) -> None:
    """Raises ModelError if the processor's values differ from those of `scaled` by more than a grey level."""
    own = np.asarray(processor(image, return_tensors="np")["pixel_values"][0])
    level = processor.rescale_factor if processor.do_rescale else 1.0
    if processor.do_normalize:
        level /= min(processor.image_std)
    if own.shape != pixels.shape or np.abs(own - scaled(pixels, processor)).max() > level:
        raise ModelError(
            f"the model's {type(processor).__name__} does more to an image than resize, crop, rescale "
            "and normalise; write a preprocessor_config.json that does only these, or a task of your own"
        )


def augmented(pixels: Pixels, augment: Augment, draw: np.random.Generator) -> Pixels:
    """The image, randomly flipped and shifted."""
    if augment.flip and draw.random() < 0.5:
        pixels = pixels[..., ::-1]
    if augment.crop:
        _, height, width = pixels.shape
        top, left = draw.integers(0, 2 * augment.crop + 1, size=2)
        edge = ((0, 0), (augment.crop, augment.crop), (augment.crop, augment.crop))
        pixels = np.pad(pixels, edge, mode="edge")[:, top : top + height, left : left + width]
    return pixels


def scaled(pixels: NDArray[Any], processor: Any) -> NDArray[np.float32]:
    """[…, channels, height, width] scaled and normalised as by the model's processor."""
    values = pixels.astype(np.float32)
    if processor.do_rescale:
        values *= processor.rescale_factor
    if processor.do_normalize:
        mean, spread = (np.asarray(part, dtype=np.float32) for part in (processor.image_mean, processor.image_std))
        values = (values - mean[:, None, None]) / spread[:, None, None]
    return values
