"""Images: sized and scaled as their processor does it, changed by the sample and the epoch alone."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, EfficientNetImageProcessor, ResNetConfig, ResNetForImageClassification

from launcher.data.rows import Row
from launcher.errors import DataError, ModelError
from launcher.job.sections.training import Train
from launcher.models.tasks.image_classification import ImageClassification
from tests.families import vit


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vit(tmp_path_factory.mktemp("vit"))


def task_of(folder: Path, **augment: Any) -> ImageClassification:
    return ImageClassification(AutoImageProcessor.from_pretrained(folder), ("a", "b"), Train(augment=augment))


def picture(seed: int = 0, height: int = 30, width: int = 20) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def png(image: Image.Image) -> bytes:
    kept = io.BytesIO()
    image.save(kept, "png")
    return kept.getvalue()


def examples(task: ImageClassification, images: list[Any]) -> list[dict[str, Any]]:
    rows = [Row("f.parquet", n + 1, {"image": image, "label": "ab"[n % 2]}) for n, image in enumerate(images)]
    columns = task.prepare(rows, labelled=True)
    return [{name: values[i] for name, values in columns.items()} for i in range(len(images))]


def test_pixels_are_those_of_the_processor(folder: Path) -> None:
    task = task_of(folder)
    images = [picture(1), picture(2, 16, 16), picture(3, 9, 50)]
    batch = task.collate(examples(task, [png(image) for image in images]), range(3))
    expected = task.processor(images, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(batch.inputs["pixel_values"], expected, rtol=0, atol=1e-6)


def test_a_processor_that_does_more_is_refused() -> None:
    processor = EfficientNetImageProcessor(size={"height": 16, "width": 16}, crop_size={"height": 16, "width": 16})
    task = ImageClassification(processor, ("a", "b"), Train())
    with pytest.raises(ModelError, match=r"EfficientNetImageProcessor.* does more to an image than"):
        examples(task, [picture()])


def test_an_image_is_bytes_a_path_or_what_datasets_holds(folder: Path, tmp_path: Path) -> None:
    picture().save(tmp_path / "one.png")
    task = task_of(folder)
    (expected,) = examples(task, [png(picture())])
    held = [{"bytes": png(picture()), "path": None}, {"bytes": None, "path": str(tmp_path / "one.png")}, picture()]
    held += [str(tmp_path / "one.png")]
    for found in examples(task, held):
        assert (found["pixels"] == expected["pixels"]).all()
    (found,) = examples(task, [png(picture().convert("L"))])
    assert len(found["pixels"]) == 3 * 16 * 16


def test_images_change_with_the_epoch_and_not_with_the_batch(folder: Path) -> None:
    task = task_of(folder, flip=True, crop=3)
    some = examples(task, [png(picture(n)) for n in range(6)])

    def pixels(ids: list[int], epoch: int | None) -> dict[int, torch.Tensor]:
        return dict(zip(ids, task.collate([some[i] for i in ids], ids, epoch).inputs["pixel_values"], strict=True))

    together = pixels([0, 1, 2, 3, 4, 5], 2)
    for ids in ([3], [5, 0], [1, 2, 4]):
        for number, found in pixels(ids, 2).items():
            assert torch.equal(found, together[number])
    assert not all(torch.equal(found, together[n]) for n, found in pixels([0, 1, 2, 3, 4, 5], 3).items())
    plain = task_of(folder).collate(some, range(6)).inputs["pixel_values"]
    assert torch.equal(task.collate(some, range(6), None).inputs["pixel_values"], plain), "not in evaluation"


def test_a_flip_is_a_mirror_and_a_crop_a_shift(folder: Path) -> None:
    plain = task_of(folder)
    some = examples(plain, [png(picture(n)) for n in range(20)])
    truth = plain.collate(some, range(20)).inputs["pixel_values"]
    flipped = task_of(folder, flip=True).collate(some, range(20), 0).inputs["pixel_values"]
    same = [torch.equal(a, b) for a, b in zip(flipped, truth, strict=True)]
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(flipped, truth, strict=True)]
    assert all(one != other for one, other in zip(same, mirrored, strict=True))
    assert any(same)
    assert any(mirrored)
    for shifted, image in zip(
        task_of(folder, crop=2).collate(some, range(20), 0).inputs["pixel_values"], truth, strict=True
    ):
        padded = torch.nn.functional.pad(image[None], (2, 2, 2, 2), mode="replicate")[0]
        places = [(y, x) for y in range(5) for x in range(5)]
        assert any(torch.equal(padded[:, y : y + 16, x : x + 16], shifted) for y, x in places)


def test_batch_normalisation_keeps_the_models_own_statistics(folder: Path) -> None:
    task = task_of(folder)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=2)
    module = task.build(ResNetForImageClassification(config)).train()
    some = examples(task, [png(picture(n)) for n in range(4)])
    together = module(task.collate(some, range(4), 0)).outputs
    apart = torch.cat([module(task.collate([one], [n], 0)).outputs for n, one in enumerate(some)])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)
    assert all(not buffer.any() for name, buffer in module.named_buffers() if name.endswith("running_mean"))


BAD: dict[str, tuple[Any, str]] = {
    "truncated": (png(picture())[:300], "the image is broken: .*truncated.*replace or remove it"),
    "no image": (b"GIF? not at all", "the image is not of a supported format; convert it to png or jpeg"),
    "empty": (b"", "the image is empty"),
    "missing": (None, "the image is empty"),
    "no such file": ("nowhere.png", "there is no image .*nowhere.png; correct the path"),
    "16 bits": (png(Image.fromarray(np.full((4, 4), 9000, np.uint16))), "the image has more than 8 bits .*scale it"),
    "far too large": (png(Image.new("1", (19000, 19000))), "the image is broken: .*exceeds limit"),
    "a number": (3, "the image is int, neither a path nor bytes"),
}


@pytest.mark.parametrize(("image", "said"), BAD.values(), ids=BAD)
def test_a_bad_image_is_told_with_its_place(image: Any, said: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"f\.csv, row 2: {said}"):
        task_of(folder).prepare([Row(f"{tmp_path}/f.csv", 2, {"image": image, "label": "a"})], labelled=True)


def test_a_processor_that_leaves_images_of_two_sizes_is_refused(folder: Path) -> None:
    task = task_of(folder)
    task.processor.do_resize = False
    with pytest.raises(ModelError, match=r"makes images of different sizes .* set both its `size` and `crop_size`"):
        examples(task, [png(picture(0, 9, 9)), png(picture(1, 12, 9))])
