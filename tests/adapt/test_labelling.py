"""What SHOT and self-training call the samples of the target, against their definitions written out plainly."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from launcher.adapt.methods.method import Method, TargetInference
from launcher.adapt.methods.pseudo_labels import UNSURE, counted
from launcher.adapt.methods.self_training import SelfTrained
from launcher.adapt.methods.shot import SourceFree
from launcher.job.sections.methods import SelfTraining, Shot
from tests.adapt.labels import nearest_centres, surest

TASK: Any = SimpleNamespace(labels=("a", "b", "c", "d"))


def labels_of(method: Method, features: Tensor, logits: Tensor) -> list[int]:
    """After a look at a target whose samples come in three batches, not in their order. They are told to the user."""

    def look() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for ids in torch.randperm(len(features), generator=torch.Generator().manual_seed(0)).chunk(3):
            yield ids, features[ids], logits[ids]

    told = method.begin_epoch(1, TargetInference(len(features), look, lambda part: part))
    found: list[int] = method.state["labels"]
    assert told is not None
    begun, counts = told.split(": ")
    counts, _, advice = counts.partition("; ")
    assert bool(advice) is all(label == UNSURE for label in found)
    assert begun == f"labels for {sum(label != UNSURE for label in found)} of {len(found)} target samples"
    assert dict(reversed(count.split()) for count in counts.split(", ")) == {
        name: str(found.count(number)) for number, name in enumerate(TASK.labels)
    }
    return found


@pytest.mark.parametrize("seed", range(5))
def test_shot_gives_each_sample_the_class_of_the_nearest_centre(seed: int) -> None:
    torch.manual_seed(seed)
    features, logits = torch.randn(60, 5), 2 * torch.randn(60, 4)
    found = labels_of(SourceFree(Shot(method="shot"), TASK, {}, 60), features, logits)
    expected = nearest_centres(features.double().numpy(), logits.double().softmax(-1).numpy())
    assert found == expected
    assert len(set(found)) > 1


def test_shot_has_no_centre_for_a_class_without_samples() -> None:
    """The last sample lies the other way from both others, and all the same is of the one that is less far."""
    features = torch.tensor([[9.0, 0.0]] * 10 + [[9.0, 3.0]] * 10 + [[-9.0, 0.5]])
    logits = torch.tensor([[6.0, 0.0, -40.0]] * 10 + [[0.0, 6.0, -40.0]] * 10 + [[0.0, 0.0, -60.0]])
    found = labels_of(SourceFree(Shot(method="shot"), TASK, {}, 21), features, logits)
    assert found == nearest_centres(features.double().numpy(), logits.double().softmax(-1).numpy())
    assert found == [0] * 10 + [1] * 11


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("threshold", [0.6, 0.9, 0.9999])
def test_self_training_keeps_sure_labels_and_of_each_class_as_many(balanced: bool, threshold: float) -> None:
    torch.manual_seed(1)
    logits = 2 * torch.randn(50, 3) + torch.tensor([1.0, 0.0, -0.5])
    spec = SelfTraining(method="self-training", threshold=threshold, class_balanced=balanced)
    found = labels_of(SelfTrained(spec, TASK, {}, 50), torch.zeros(50, 1), logits)
    assert found == surest(logits.double().softmax(-1), threshold, balanced)


def test_of_many_classes_the_commonest_are_told() -> None:
    labels = torch.tensor([UNSURE] + [number for number in range(9) for _ in range(number)])
    assert counted(labels, tuple("abcdefghi")) == (
        "labels for 36 of 37 target samples: 8 i, 7 h, 6 g, 5 f, 4 e, 3 d and 3 more classes"
    )
