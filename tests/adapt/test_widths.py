"""A method's weight means the same at every width of the features, scale of the features, and number of classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from launcher.adapt.methods.cdan import joint
from launcher.adapt.methods.coral import covariance_distance
from launcher.adapt.methods.domain_loss import Discriminator, reversed_gradient
from launcher.adapt.methods.mcc import confusion
from launcher.adapt.methods.mmd import squared_mmd
from launcher.engines.base import ParamOptions
from launcher.engines.optimizer import make_optimizer, parameter_groups, set_rate
from launcher.job.sections.training import Optimizer

NARROW, TIMES, SAMPLES = 12, 4, 40
OPTIMIZERS: list[dict[str, Any]] = [
    {"name": "sgd", "lr": 0.3, "momentum": 0.9, "weight_decay": 0.0},
    {"name": "adamw", "lr": 0.01, "weight_decay": 0.0},
]


def features(seed: int = 0, width: int = NARROW) -> Tensor:
    """Half of one domain, half of another, of which some features tell."""
    drawn = torch.randn(SAMPLES, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    drawn[: SAMPLES // 2, : width // 3] += 1.5
    return drawn


def trained(discriminator: Discriminator, seen: Tensor, optimizer: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The scores after some steps, and the gradient that features get through them."""
    spec, is_source = Optimizer.model_validate(optimizer), (torch.arange(SAMPLES) < SAMPLES // 2).double()
    factors = discriminator.learning_rate_factors(3.0)
    treatments = {name: ParamOptions(factor) for name, factor in factors.items()}
    steps = make_optimizer(parameter_groups(discriminator.named_parameters(), spec, treatments), spec)
    set_rate(steps, spec.lr)
    for _ in range(6):
        rows = seen.clone().requires_grad_()
        scores = discriminator.layers(reversed_gradient(rows, 0.5))[:, 0]
        steps.zero_grad()
        F.binary_cross_entropy_with_logits(scores, is_source).backward()
        steps.step()
    assert rows.grad is not None
    return scores.detach(), rows.grad


def widened(narrow: Discriminator) -> Discriminator:
    """It says of features that are there several times what the narrow one says of them."""
    wide = Discriminator(TIMES * NARROW, 8).double()
    state = narrow.state_dict()
    wide.load_state_dict(state | {"layers.0.weight": state["layers.0.weight"].repeat(1, TIMES) / TIMES})
    return wide


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: optimizer["name"])
def test_features_that_are_there_several_times_are_unlearned_as_if_they_were_there_once(
    optimizer: dict[str, Any],
) -> None:
    narrow = Discriminator(NARROW, 8).double()
    wide, start = widened(narrow), narrow.layers(features())[:, 0].detach()
    scores, gradient = trained(narrow, features(), optimizer)
    wide_scores, wide_gradient = trained(wide, features().repeat(1, TIMES), optimizer)
    assert float((scores - start).abs().max()) > 0.1, "it has learned something"
    torch.testing.assert_close(wide_scores, scores, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(wide_gradient.unflatten(1, (TIMES, NARROW)).sum(1), gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: optimizer["name"])
def test_classes_that_nothing_is_of_change_nothing(optimizer: dict[str, Any]) -> None:
    few = Discriminator(NARROW, 8, classes=2).double()
    many, state = Discriminator(NARROW, 8, classes=2 * TIMES).double(), few.state_dict()
    first = torch.cat([state["layers.0.weight"], torch.randn(8, (2 * TIMES - 2) * NARROW)], 1)
    many.load_state_dict(state | {"layers.0.weight": first})
    told = torch.rand(SAMPLES, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    p = torch.cat([told, 1 - told], 1)
    scores, gradient = trained(few, joint(features(), p), optimizer)
    more_scores, more_gradient = trained(many, joint(features(), F.pad(p, (0, 2 * TIMES - 2))), optimizer)
    torch.testing.assert_close(more_scores, scores, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(more_gradient[:, : 2 * NARROW], gradient, rtol=1e-4, atol=1e-7)


def test_a_discriminator_starts_as_unsure_at_every_width_and_number_of_classes() -> None:
    torch.manual_seed(0)
    spreads = []
    for width, classes in ((16, 1), (1024, 1), (64, 2), (64, 50)):
        sure = F.one_hot(torch.arange(200) % classes, classes).float()
        seen = joint(torch.randn(200, width), sure)
        inner = Discriminator(width, 2048, classes).layers[0](seen)
        spreads.append(float(inner.detach().std()))
    assert spreads == pytest.approx([spreads[0]] * 4, rel=0.1)


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "coral": covariance_distance,
    "mmd": lambda source, target: squared_mmd(source, target, (0.25, 0.5, 1.0, 2.0, 4.0)),
}


def distance_and_pull(name: str, rows: Tensor) -> tuple[Tensor, Tensor]:
    seen = rows.clone().requires_grad_()
    distance = DISTANCES[name](seen[: SAMPLES // 2], seen[SAMPLES // 2 :])
    distance.backward()
    assert seen.grad is not None
    return distance.detach(), seen.grad


@pytest.mark.parametrize("name", DISTANCES)
def test_a_distance_of_domains_knows_no_width_and_no_scale(name: str) -> None:
    distance, pull = distance_and_pull(name, features())
    again, pulls = distance_and_pull(name, 7.0 * features().repeat(1, TIMES))
    assert float(distance) > 0.01
    assert float(again) == pytest.approx(float(distance), rel=1e-9)
    torch.testing.assert_close(7.0 * pulls.unflatten(1, (TIMES, NARROW)).sum(1), pull, rtol=1e-7, atol=1e-12)


def test_covariances_that_are_equal_have_no_distance_and_orthogonal_ones_the_greatest() -> None:
    rows = features()
    flat = torch.zeros_like(rows)
    left, right = flat.clone(), flat.clone()
    left[:, 0], right[:, 1] = rows[:, 0], rows[:, 1]
    assert float(covariance_distance(rows, rows + 3.0)) == pytest.approx(0.0, abs=1e-12)
    assert float(covariance_distance(left, right)) == pytest.approx(1.0)
    assert float(covariance_distance(flat, flat)) == 0.0


def test_confusion_is_that_of_one_problem_where_the_same_problem_is_there_twice() -> None:
    logits = torch.randn(30, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    apart = torch.full_like(logits, -500.0)
    twice = torch.cat([torch.cat([logits, apart], 1), torch.cat([apart, logits], 1)])
    assert float(confusion(twice, 2.5)) == pytest.approx(float(confusion(logits, 2.5)), rel=1e-9)
