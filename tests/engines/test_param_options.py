"""Learning rates of groups, the pull to the start, averages and mixtures: under every engine, against float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from launcher.adapt.options.weight_options import WeightOptions
from launcher.checkpoint.from_dcp import dcp_weights
from launcher.checkpoint.reading import read_state
from launcher.checkpoint.saving import Checkpoints
from launcher.engines.base import Engine, ParamOptions
from launcher.job.sections.adapting import Ema
from launcher.job.sections.methods import Finetune
from launcher.job.sections.training import Optimizer
from tests.engines.test_engines import (
    ADAMW,
    SGD,
    STEPS,
    STRATEGIES,
    Net,
    engine_of,
    micro_batch,
    samples,
    take_steps,
    whole,
)
from tests.worlds import Worlds

TREATMENTS = {
    "model.0.weight": ParamOptions(factor=0.3),
    "model.2.weight": ParamOptions(factor=0.3),
    "model.3.weight": ParamOptions(factor=2.0, is_new=True),
    "model.3.bias": ParamOptions(is_new=True),
}
PULL, SHARE = 4.0, 0.3
KEPT = Finetune(l2_sp=PULL, interpolate=SHARE, average=Ema(name="ema", decay=0.999))
TAKES = [9 / (10 + step) for step in range(1, STEPS + 1)]
"""Weights of the steps in the average, of which so short a run forgets the start quickly."""
Weights = dict[str, Tensor]


def treated(name: str, optimizer: dict[str, Any]) -> tuple[Engine, WeightOptions]:
    engine = engine_of(name, clip=None)
    engine.prepare(Net(), Optimizer.model_validate(optimizer), {}, TREATMENTS)
    return engine, WeightOptions(KEPT, engine, STEPS, STEPS, interpolates=True)


def train_on(engine: Engine, options: WeightOptions, rank: int, size: int, steps: range, lr: float) -> None:
    for step in steps:
        list(take_steps(engine, rank, size, range(step, step + 1), lr, options.before_update))
        options.after_step(step + 1)


def weights_shown(engine: Engine) -> dict[str, Any]:
    """The weights, and what the module makes of an input, which must be of the same ones."""
    found = whole(engine)
    with torch.no_grad():
        found["outputs"] = engine.module(micro_batch(9, [0, 1, 2])).outputs.tolist()
    return found


def by_hand(optimizer: dict[str, Any]) -> tuple[Weights, Weights, Weights]:
    """The start, the end and the average, with one optimizer a parameter."""
    net = Net().double()
    named = {name: p for name, p in net.named_parameters() if p.requires_grad}
    start = {name: p.detach().clone() for name, p in named.items()}
    average, made = {name: p.clone() for name, p in start.items()}, {}
    for name, p in named.items():
        rate = optimizer["lr"] * TREATMENTS.get(name, ParamOptions()).factor
        decay = optimizer["weight_decay"] if p.ndim == 2 else 0.0
        kind: Any = torch.optim.SGD if optimizer["name"] == "sgd" else torch.optim.AdamW
        options = {"momentum": optimizer["momentum"]} if optimizer["name"] == "sgd" else {}
        made[name] = kind([p], lr=rate, weight_decay=decay, **options)
    for step in range(STEPS):
        x, y, weights = (tensor.double() for tensor in samples(step))
        errors = (net.model(x)[:, 0] - y).square()
        ((errors * weights).sum() / weights.sum()).backward()
        for name, p in named.items():
            treatment = TREATMENTS.get(name, ParamOptions())
            if not treatment.is_new:
                with torch.no_grad():
                    p -= optimizer["lr"] * treatment.factor * PULL * (p - start[name])
            made[name].step()
            average[name] += TAKES[step] * (p.detach() - average[name])
        net.zero_grad()
    return start, {name: p.detach() for name, p in named.items()}, average


def run(rank: int, size: int, name: str, optimizer: dict[str, Any]) -> list[dict[str, Any]]:
    """The end; the average, swapped in and out; mixtures of start and end."""
    engine, options = treated(name, optimizer)
    train_on(engine, options, rank, size, range(STEPS), optimizer["lr"])
    found = [weights_shown(engine)]
    for _ in range(2):
        options.swap_result(STEPS)
        found.append(weights_shown(engine))
    for share in (SHARE, 0.0, 1.0):
        options.mix(share)
        found.append(weights_shown(engine))
    return found


def assert_near(found: dict[str, Any], expected: Weights) -> None:
    for name, tensor in expected.items():
        torch.testing.assert_close(torch.tensor(found[name]).double(), tensor, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("optimizer", [SGD | {"lr": 0.05}, ADAMW], ids=["sgd", "adamw"])
@pytest.mark.parametrize(("name", "size"), STRATEGIES)
def test_weights_averages_and_mixtures_are_those_of_a_float64_loop(
    name: str, size: int, optimizer: dict[str, Any], worlds: Worlds
) -> None:
    start, end, average = by_hand(optimizer)
    for last, swapped, back, mixed, first, final in worlds.run(size, run, name, optimizer):
        assert_near(last, end)
        assert_near(swapped, average)
        assert_near(mixed, {n: torch.lerp(start[n], end[n], SHARE) for n in start})
        assert_near(first, start)
        assert last == back == final, "to the last bit"
        assert len({str(found["outputs"]) for found in (last, swapped, mixed, first)}) == 4


def train_steps(rank: int, size: int, name: str, folder: str, steps: range) -> list[dict[str, Any]]:
    engine, options = treated(name, ADAMW)
    checkpoints = Checkpoints(Path(folder), keep=9)
    if steps.start:
        options.load(read_state(checkpoints.at(steps.start), options.state()))
    train_on(engine, options, rank, size, steps, ADAMW["lr"])
    checkpoints.save(steps.stop, options.state(), {}, best_step=None)
    found = [whole(engine)]
    options.swap_result(steps.stop)
    found.append(whole(engine))
    options.swap_result(steps.stop)
    options.mix(SHARE)
    return [*found, whole(engine)]


MOVES = [
    (("single", 1), ("zero3", 2)),
    (("zero3", 3), ("fsdp", 2)),
    (("fsdp", 2), ("zero1", 3)),
    (("zero2", 2), ("ddp", 3)),
    (("ddp", 2), ("single", 1)),
    (("zero1", 1), ("zero2", 3)),
]


@pytest.mark.parametrize(("before", "after"), MOVES)
def test_averages_and_the_start_go_from_engine_to_engine(
    before: tuple[str, int], after: tuple[str, int], worlds: Worlds, tmp_path: Path
) -> None:
    start, end, average = by_hand(ADAMW)
    worlds.run(before[1], train_steps, before[0], str(tmp_path), range(2))
    for last, swapped, mixed in worlds.run(after[1], train_steps, after[0], str(tmp_path), range(2, STEPS)):
        assert_near(last, end)
        assert_near(swapped, average)
        assert_near(mixed, {n: torch.lerp(start[n], end[n], SHARE) for n in start})
    weights = dcp_weights(tmp_path / f"step-{STEPS:08d}", None)
    consolidated = {
        f"model.{weight.name}": torch.cat([piece.flatten() for piece in weight.pieces()]).reshape(weight.shape).tolist()
        for weight in weights
    }
    assert_near(consolidated, {name: tensor for name, tensor in average.items() if name != "unused"})


FIRST = ("model.3", "unused")
"""What learns from the beginning; the rest begins after two steps."""


def staged(rank: int, size: int, name: str, folder: str) -> dict[str, Any]:
    """Two steps of the last layer alone, then two of all, by a new engine from the checkpoint."""
    checkpoints = Checkpoints(Path(folder), keep=9)
    for stage in range(2):
        net = Net()
        for parameter in () if stage else net.model[:3].parameters():
            parameter.requires_grad_(False)
        treatments = {n: ParamOptions(since=0 if n.startswith(FIRST) else 1) for n, _ in net.named_parameters()}
        engine = engine_of(name, clip=None)
        engine.prepare(net, Optimizer.model_validate(ADAMW), {}, treatments)
        if stage:
            engine.load(read_state(checkpoints.at(2), engine.state()))
        list(take_steps(engine, rank, size, range(2 * stage, 2 * stage + 2), ADAMW["lr"]))
        checkpoints.save(2 * stage + 2, engine.state(), {}, best_step=None)
    return whole(engine)


def staged_by_hand() -> Weights:
    net = Net().double()
    named = {n: p for n, p in net.named_parameters() if p.requires_grad}
    made = {
        n: torch.optim.AdamW([p], lr=ADAMW["lr"], weight_decay=ADAMW["weight_decay"] * (p.ndim == 2))
        for n, p in named.items()
    }
    for step in range(STEPS):
        x, y, weights = (tensor.double() for tensor in samples(step))
        errors = (net.model(x)[:, 0] - y).square()
        ((errors * weights).sum() / weights.sum()).backward()
        for n, optimizer in made.items():
            if step >= 2 or n.startswith(FIRST):
                optimizer.step()
        net.zero_grad()
    return {n: p.detach() for n, p in named.items()}


@pytest.mark.parametrize(("name", "size"), STRATEGIES)
def test_what_begins_to_learn_later_has_moments_of_its_own(
    name: str, size: int, worlds: Worlds, tmp_path: Path
) -> None:
    expected = staged_by_hand()
    for found in worlds.run(size, staged, name, str(tmp_path)):
        assert_near(found, expected)


def moments_after_an_evaluation(rank: int, size: int) -> list[set[str]]:
    engine, options = treated("fsdp", ADAMW)
    train_on(engine, options, rank, size, range(1), 1e-2)
    before = options.state()["optimizer"]
    weights_shown(engine)  # leaves the root's weights whole
    after = options.state()["optimizer"]
    assert all(before[name].keys() == after[name].keys() for name in before)
    return [set(before), set(after), {name for name in after if "exp_avg" in after[name]}]


def test_a_checkpoint_right_after_an_evaluation_has_all_moments(worlds: Worlds) -> None:
    learning = {n for n, p in Net().named_parameters() if p.requires_grad}
    for before, after, stepped in worlds.run(2, moments_after_an_evaluation):
        assert before == after == learning
        assert stepped == learning - {"unused"}
