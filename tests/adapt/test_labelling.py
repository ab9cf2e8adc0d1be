"""What SHOT and self-training call the samples of the target, against their definitions written out plainly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from launcher.adapt.method import Method, TargetView
from launcher.adapt.pseudo_labels import UNSURE
from launcher.adapt.self_training import SelfTrained
from launcher.adapt.shot import SourceFree
from launcher.job.methods import SelfTraining, Shot


def labels_of(method: Method, features: Tensor, logits: Tensor) -> list[int]:
    """After a look at a target whose samples come in three batches, not in their order."""

    def look() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for ids in torch.randperm(len(features), generator=torch.Generator().manual_seed(0)).chunk(3):
            yield ids, features[ids], logits[ids]

    method.begin_epoch(1, TargetView(len(features), look, lambda part: part))
    found: list[int] = method.state["labels"]
    return found


def nearest_centres(features: Any, probabilities: Any) -> list[int]:
    """Section 3.2 of the paper, sample by sample; the second time from whole labels."""
    rows = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    labels: list[int] = []
    for _ in range(2):
        weights = probabilities if not labels else np.eye(probabilities.shape[1])[labels]
        centres = {
            number: (weight[:, None] * rows).sum(0) / weight.sum()
            for number, weight in enumerate(weights.T)
            if any(weight)
        }
        labels = [
            max(centres, key=lambda number: float(row @ centres[number] / np.linalg.norm(centres[number])))
            for row in rows
        ]
    return labels


@pytest.mark.parametrize("seed", range(5))
def test_shot_gives_each_sample_the_class_of_the_nearest_centre(seed: int) -> None:
    torch.manual_seed(seed)
    features, logits = torch.randn(60, 5), 2 * torch.randn(60, 4)
    found = labels_of(SourceFree(Shot(method="shot"), None, {}, 60), features, logits)  # type: ignore[arg-type]
    expected = nearest_centres(features.double().numpy(), logits.double().softmax(-1).numpy())
    assert found == expected
    assert len(set(found)) > 1


def test_shot_has_no_centre_for_a_class_without_samples() -> None:
    """The last sample lies the other way from both others, and all the same is of the one that is less far."""
    features = torch.tensor([[9.0, 0.0]] * 10 + [[9.0, 3.0]] * 10 + [[-9.0, 0.5]])
    logits = torch.tensor([[6.0, 0.0, -40.0]] * 10 + [[0.0, 6.0, -40.0]] * 10 + [[0.0, 0.0, -60.0]])
    found = labels_of(SourceFree(Shot(method="shot"), None, {}, 21), features, logits)  # type: ignore[arg-type]
    assert found == nearest_centres(features.double().numpy(), logits.double().softmax(-1).numpy())
    assert found == [0] * 10 + [1] * 11


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("threshold", [0.6, 0.9, 0.9999])
def test_self_training_keeps_sure_labels_and_of_each_class_as_many(balanced: bool, threshold: float) -> None:
    torch.manual_seed(1)
    logits = 2 * torch.randn(50, 3) + torch.tensor([1.0, 0.0, -0.5])
    spec = SelfTraining(method="self-training", threshold=threshold, class_balanced=balanced)
    found = labels_of(SelfTrained(spec, None, {}, 50), torch.zeros(50, 1), logits)  # type: ignore[arg-type]
    probabilities = logits.double().softmax(-1)
    sure = [
        (float(row.max()), number, int(row.argmax()))
        for number, row in enumerate(probabilities)
        if row.max() >= threshold
    ]
    of_class = [[one for one in sorted(sure, reverse=True) if one[2] == label] for label in range(3)]
    fewest = min((len(mine) for mine in of_class if mine), default=0)
    kept = [one for mine in of_class for one in (mine[:fewest] if balanced else mine)]
    expected = [UNSURE] * 50
    for _, number, label in kept:
        expected[number] = label
    assert found == expected
