"""Every engine makes the step that a plain PyTorch loop would make over the whole global batch."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from math import isfinite
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from launcher.adapt.options.weight_options import WeightOptions
from launcher.checkpoint.reading import read_state
from launcher.checkpoint.saving import Checkpoints
from launcher.engines import make_engine
from launcher.engines.base import Engine, EngineSettings, nothing
from launcher.engines.fsdp import blocks_of
from launcher.engines.mesh import process_count
from launcher.errors import RequestError
from launcher.job.sections.adapting import Ema
from launcher.job.sections.methods import Finetune
from launcher.job.sections.training import Optimizer
from launcher.models.parts.batch import Batch, Losses
from launcher.plan.deepspeed_config import TEMPLATES
from launcher.plan.mesh import Mesh
from tests.thinning import every, thinned
from tests.worlds import Worlds

STEPS, CLIP = 4, 0.05
ENGINES = ("single", "ddp", "fsdp", "zero1", "zero2", "zero3")
STRATEGIES = [("single", 1), *((name, size) for name in ENGINES[2:] for size in (1, 2, 3)), ("ddp", 2), ("ddp", 3)]
OFFLOADED = [("zero2_offload", 2), ("zero3_offload", 2)]
SGD = {"name": "sgd", "lr": 0.5, "momentum": 0.9, "weight_decay": 0.1}
ADAMW = {"name": "adamw", "lr": 1e-2, "weight_decay": 0.1}


class Net(nn.Module):
    """A weighted squared error, with a parameter that nothing uses and one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 1))
        self.unused = nn.Parameter(torch.ones(3))
        self.model[0].bias.requires_grad_(False)

    def forward(self, batch: Batch) -> Losses:
        errors = (self.model(batch.inputs["x"])[:, 0] - batch.targets).square()
        return Losses(errors * batch.weights, errors.detach())


def samples(step: int) -> tuple[Tensor, Tensor, Tensor]:
    """The global batch of a step: 7 samples of unequal weight."""
    draw = torch.Generator().manual_seed(step)
    return torch.randn(7, 4, generator=draw), torch.randn(7, generator=draw), torch.rand(7, generator=draw) + 0.1


def micro_batch(step: int, ids: list[int]) -> Batch:
    """Some samples of a step; filler of weight zero where there are none."""
    x, y, weights = samples(step)
    if not ids:
        return Batch({"x": torch.ones(1, 4)}, torch.ones(1), torch.zeros(1), torch.tensor([-1]), 0)
    return Batch({"x": x[ids]}, y[ids], weights[ids], torch.tensor(ids), len(ids))


DEALS: dict[int, list[list[list[int]]]] = {
    1: [[[0, 1, 2], [3, 4, 5, 6]]],
    2: [[[0], [1, 2]], [[3, 4, 5, 6], []]],
    3: [[[0, 5], [1]], [[], []], [[2, 3, 4], [6]]],
}
"""deal[world][rank][micro-batch]: uneven on purpose, with ranks and micro-batches that hold nothing."""


def engine_of(
    name: str,
    clip: float | None = CLIP,
    precision: Any = "fp32",
    zero: Mapping[str, Any] = MappingProxyType({}),
    **settings_beside: Any,
) -> Engine:
    """An engine by its name, or a ZeRO stage by the name of its template.

    zero: of DeepSpeed's zero_optimization, over the template
    """
    mesh = Mesh(replicate=process_count())
    settings = EngineSettings(torch.device("cpu"), precision=precision, clip_norm=clip, mesh=mesh, **settings_beside)
    if not name.startswith("zero"):
        return make_engine(name, settings)
    config = json.loads((TEMPLATES / f"{name}.json").read_text())
    config |= {"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2, "gradient_clipping": clip or 0.0}
    config["zero_optimization"] |= zero
    file = Path(tempfile.mkstemp(suffix=".json")[1])
    file.write_text(json.dumps(config))
    return make_engine("deepspeed", replace(settings, deepspeed=file))


def started(
    name: str, optimizer: dict[str, Any], clip: float | None = CLIP, precision: str = "fp32"
) -> tuple[Net, Engine]:
    module = Net()
    engine = engine_of(name, clip, precision)
    engine.prepare(module, Optimizer.model_validate(optimizer), {})
    return module, engine


def take_steps(
    engine: Engine, rank: int, size: int, steps: range, lr: float, before_update: Callable[[], None] = nothing
) -> Iterator[float]:
    for step in steps:
        weight = float(samples(step)[2].sum())
        hand = DEALS[size][rank]
        for number, ids in enumerate(hand):
            engine.accumulate(micro_batch(step, ids), 1 / weight, last=number == len(hand) - 1)
        yield engine.step(lr, before_update=before_update)


def train(
    rank: int, size: int, name: str, optimizer: dict[str, Any], clip: float | None
) -> tuple[list[float], dict[str, Any]]:
    _, engine = started(name, optimizer, clip)
    norms = list(take_steps(engine, rank, size, range(STEPS), optimizer["lr"]))
    return norms, whole(engine)


def whole(engine: Engine) -> dict[str, Any]:
    return {name: tensor.tolist() for name, tensor in engine.full_tensors()}


def by_hand(optimizer: dict[str, Any], clip: float | None) -> tuple[list[float], dict[str, Tensor]]:
    """The plain loop: one batch a step, torch's own loss mean, clipping and optimizer."""
    module = Net()
    named = dict(module.named_parameters())
    groups = [
        {"params": [named["model.0.weight"], named["model.3.weight"]], "weight_decay": optimizer["weight_decay"]},
        {"params": [p for p in named.values() if p.ndim < 2 and p.requires_grad], "weight_decay": 0.0},
    ]
    if optimizer["name"] == "sgd":
        made: torch.optim.Optimizer = torch.optim.SGD(groups, lr=optimizer["lr"], momentum=optimizer["momentum"])
    else:
        made = torch.optim.AdamW(groups, lr=optimizer["lr"])
    norms = []
    for step in range(STEPS):
        x, y, weights = samples(step)
        errors = (module.model(x)[:, 0] - y).square()
        ((errors * weights).sum() / weights.sum()).backward()
        norms.append(float(nn.utils.clip_grad_norm_(module.parameters(), clip or float("inf"))))
        made.step()
        made.zero_grad()
    return norms, module.state_dict()


@pytest.mark.parametrize(
    ("optimizer", "clip"), thinned([(o, c) for o in (SGD, ADAMW) for c in (CLIP, None)], [(SGD, None), (ADAMW, CLIP)])
)
@pytest.mark.parametrize(("name", "size"), STRATEGIES + OFFLOADED)
def test_steps_are_those_of_a_plain_loop(
    name: str, size: int, optimizer: dict[str, Any], clip: float | None, worlds: Worlds
) -> None:
    expected_norms, expected = by_hand(optimizer, clip)
    assert clip is None or min(expected_norms) > clip
    for norms, found in worlds.run(size, train, name, optimizer, clip):
        assert norms == pytest.approx(expected_norms, rel=1e-5)
        for parameter, tensor in expected.items():
            torch.testing.assert_close(torch.tensor(found[parameter]), tensor, rtol=1e-4, atol=2e-5)


def train_steps(rank: int, size: int, name: str, folder: str, steps: range) -> dict[str, Any]:
    """Take `steps`, from the checkpoint there where they do not begin at 0, and save one at their end."""
    _, engine = started(name, ADAMW)
    checkpoints = Checkpoints(Path(folder), keep=9)
    if steps.start:
        engine.load(read_state(checkpoints.at(steps.start), engine.state()))
    list(take_steps(engine, rank, size, steps, ADAMW["lr"]))
    checkpoints.save(steps.stop, engine.state(), {}, best_step=None)
    return whole(engine)


MOVES = [
    (first, size, then, then_size)
    for first, size in STRATEGIES
    for then, then_size in STRATEGIES
    if (size, then_size) in {(1, 2), (2, 1), (2, 3)}
] + [(*one, *other) for name in OFFLOADED for one, other in ((name, ("fsdp", 3)), (("zero1", 2), name))]


@pytest.mark.parametrize(("first", "first_size", "then", "then_size"), every(2, MOVES))
def test_a_checkpoint_goes_on_under_any_engine_and_world(
    first: str, first_size: int, then: str, then_size: int, worlds: Worlds, tmp_path: Path
) -> None:
    expected = by_hand(ADAMW, CLIP)[1]
    worlds.run(first_size, train_steps, first, str(tmp_path), range(2))
    for found in worlds.run(then_size, train_steps, then, str(tmp_path), range(2, STEPS)):
        for name, tensor in expected.items():
            torch.testing.assert_close(torch.tensor(found[name]), tensor, rtol=1e-4, atol=2e-5)


def test_the_state_and_the_tensors_bear_the_modules_own_names(worlds: Worlds) -> None:
    alone = names_of(0, 1, "single")
    assert worlds.run(2, names_of, "ddp") == [alone] * 2
    for name in ENGINES[2:]:
        assert worlds.run(2, names_of, name) == [alone] * 2


def after_a_pass(rank: int, size: int, zero: dict[str, Any], folder: str) -> tuple[dict[str, Any], ...]:
    """Whole weights after steps and a pass without gradients; again after reading them back into what has been used."""
    engine = engine_of("zero3", zero=zero)
    engine.prepare(Net(), Optimizer.model_validate(ADAMW), {})
    options = WeightOptions(Finetune(average=Ema(name="ema")), engine, STEPS, STEPS, interpolates=False)
    list(take_steps(engine, rank, size, range(2), ADAMW["lr"]))
    options.after_step(2)
    found = []
    for _ in range(2):
        pass_over(engine)
        found.append(whole(engine))
        pass_over(engine)
        options.swap_result(2)
    pass_over(engine)
    checkpoints = Checkpoints(Path(folder), keep=1)
    checkpoints.save(2, options.state(), {}, best_step=None)
    options.load(read_state(checkpoints.at(2), options.state()))
    return (*found, whole(engine))


def pass_over(engine: Engine) -> None:
    """An evaluation, which ends with what DeepSpeed has fetched ahead for a next layer that does not come."""
    with torch.no_grad():
        for _ in range(3):
            engine.module(micro_batch(0, [0, 1]))


FETCHED_AHEAD = {"stage3_prefetch_bucket_size": 40, "stage3_param_persistence_threshold": 10}


def test_what_zero_fetches_ahead_and_keeps_whole_changes_nothing(worlds: Worlds, tmp_path: Path) -> None:
    expected = worlds.run(2, after_a_pass, {}, str(tmp_path / "without"))
    assert worlds.run(2, after_a_pass, FETCHED_AHEAD, str(tmp_path / "with")) == expected


def names_of(rank: int, size: int, name: str) -> tuple[list[str], list[str]]:
    _, engine = started(name, ADAMW)
    list(take_steps(engine, rank, size, range(1), 1e-3))
    state = engine.state()
    assert list(state["model"]) == list(Net().state_dict())
    assert (
        set(state["optimizer"]) <= set(state["learning"]) <= {n for n, p in Net().named_parameters() if p.requires_grad}
    )
    return list(state["model"]), [name for name, _ in engine.full_tensors()]


@pytest.mark.parametrize(("name", "size"), STRATEGIES)
def test_frozen_and_unused_parameters_stay_as_they_are(name: str, size: int, worlds: Worlds) -> None:
    module = Net()
    for _, found in worlds.run(size, train, name, ADAMW, None):
        assert found["unused"] == module.unused.tolist()
        assert found["model.0.bias"] == module.model[0].bias.tolist()
        assert found["model.0.weight"] != module.model[0].weight.tolist()


def step_and_discard(
    rank: int, size: int, name: str, poison: str
) -> tuple[list[float], dict[str, Any], dict[str, Any]]:
    """A step, one that is to be discarded, and another; with the weights around the middle one."""
    _, engine = started(name, ADAMW)
    (first,) = take_steps(engine, rank, size, range(1), ADAMW["lr"])
    before = whole(engine)
    batch = micro_batch(1, DEALS[size][rank][0])
    if poison == "gradient" and rank == size - 1:
        batch.inputs["x"].fill_(float("nan"))
    engine.accumulate(batch, 1.0, last=True)
    engine.step(ADAMW["lr"], discard=poison == "asked")
    after = whole(engine)
    (last,) = take_steps(engine, rank, size, range(2, 3), ADAMW["lr"])
    assert before == after
    return [first, last], before, whole(engine)


@pytest.mark.parametrize("poison", ["gradient", "asked"])
@pytest.mark.parametrize(("name", "size"), STRATEGIES + OFFLOADED)
def test_a_step_that_is_not_finite_or_not_wanted_leaves_no_trace(
    name: str, size: int, poison: str, worlds: Worlds
) -> None:
    for norms, before, after in worlds.run(size, step_and_discard, name, poison):
        assert all(isfinite(norm) for norm in norms)
        assert before != after
        assert all(isfinite(value) for values in after.values() for value in np.ravel(values))


def bytes_held(rank: int, size: int, name: str) -> int:
    """Of parameters and moments, after a step."""
    _, engine = started(name, ADAMW)
    list(take_steps(engine, rank, size, range(1), 1e-3))
    state = engine.state()
    tensors = [*state["model"].values(), *(t for slots in state["optimizer"].values() for t in slots.values())]
    return sum((t.to_local() if isinstance(t, DTensor) else t).nbytes for t in tensors)


def test_fsdp_keeps_a_slice_on_each_rank(worlds: Worlds) -> None:
    alone = bytes_held(0, 1, "single")
    held = worlds.run(2, bytes_held, "fsdp")
    assert max(held) < 0.65 * alone
    assert alone <= sum(held) <= alone + 200, "counters are on each rank, and nothing else is there twice"


def whole_in_fsdp(engine: Engine) -> tuple[int, int]:
    """Bytes of weights and of gradients that this rank has whole."""
    groups = [m._get_fsdp_state()._fsdp_param_group for m in engine.module.modules() if isinstance(m, FSDPModule)]
    held = [p for group in groups if group is not None for p in group.fsdp_params if hasattr(p, "_unsharded_param")]
    weights = sum(p._unsharded_param.untyped_storage().nbytes() for p in held)
    gradients = [g for p in held for g in (p.unsharded_accumulated_grad, p._unsharded_param.grad) if g is not None]
    return weights, sum(gradient.nbytes for gradient in gradients)


def whole_between(rank: int, size: int, whole_gradients: bool) -> tuple[int, dict[str, Any]]:
    """Bytes of whole gradients between micro-batches, and the weights after some steps."""
    engine = engine_of("fsdp", whole_gradients=whole_gradients)
    engine.prepare(Net(), Optimizer.model_validate(ADAMW), {})
    list(take_steps(engine, rank, size, range(1), ADAMW["lr"]))
    engine.accumulate(micro_batch(1, [0]), 0.0, last=False)
    _, between = whole_in_fsdp(engine)
    list(take_steps(engine, rank, size, range(1, STEPS), ADAMW["lr"]))
    return between, whole(engine)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("whole_gradients", [True, False])
def test_fsdp_has_gradients_whole_between_micro_batches_only_where_it_may(
    whole_gradients: bool, size: int, worlds: Worlds
) -> None:
    expected = by_hand(ADAMW, CLIP)[1]
    used = sum(p.nbytes for name, p in Net().named_parameters() if p.requires_grad and name != "unused")
    for between, found in worlds.run(size, whole_between, whole_gradients):
        assert between == (used if whole_gradients else 0)
        for name, tensor in expected.items():
            torch.testing.assert_close(torch.tensor(found[name]), tensor, rtol=1e-4, atol=2e-5)


def test_blocks_are_the_members_of_the_outermost_lists_or_the_class_that_is_named() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])

    model = nn.Sequential(nn.Embedding(3, 2), nn.ModuleList([Layer(), Layer(), Layer()]), nn.Linear(2, 2))
    assert blocks_of(model, None) == list(model[1])
    assert blocks_of(model, "Linear") == [m for m in model.modules() if isinstance(m, nn.Linear)]
    with pytest.raises(RequestError, match=r"the model has no module 'Block'; its repeated blocks are Layer"):
        blocks_of(model, "Block")


def in_precision(rank: int, size: int, name: str, precision: Any) -> tuple[list[float], list[str]]:
    _, engine = started(name, ADAMW, None, precision)
    losses = engine.accumulate(micro_batch(0, [0, 1, 2]), 1.0, last=True)
    engine.step(1e-3)
    state = engine.state()
    kept = [*state["model"].values(), *state["optimizer"]["model.0.weight"].values()]
    return losses.weighted.tolist(), sorted({str(tensor.dtype) for tensor in kept})


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_bf16_computes_in_bf16_and_keeps_fp32(name: str, worlds: Worlds) -> None:
    fp32, _ = worlds.run(2, in_precision, name, "fp32")[0]
    bf16, kept = worlds.run(2, in_precision, name, "bf16")[0]
    assert kept == ["torch.float32"]
    assert bf16 != fp32
    assert bf16 == pytest.approx(fp32, rel=0.05)


def in_fp16(rank: int, size: int, name: str, folder: str) -> tuple[list[dict[str, Any]], list[float]]:
    """Two steps, the second with an infinite gradient on the last rank alone, a save, and a third by a new engine."""
    checkpoints = Checkpoints(Path(folder), keep=1)
    module, engine = started(name, SGD, precision="fp16")
    weights, scales = [], []
    for step in range(2):
        list(take_steps(engine, rank, size, range(step, step + 1), 0.01))
        weights.append(whole(engine))
        scales.append(float(engine.state()["scaler"]["scale"]))  # type: ignore[arg-type]
        first = next(p for p in module.parameters() if p.requires_grad)
        hook = first.register_post_accumulate_grad_hook(poison if rank == size - 1 else lambda _: None)
    hook.remove()
    checkpoints.save(2, engine.state(), {}, best_step=None)
    _, engine = started(name, SGD, precision="fp16")
    engine.load(read_state(checkpoints.at(2), engine.state()))
    scales.append(float(engine.state()["scaler"]["scale"]))  # type: ignore[arg-type]
    list(take_steps(engine, rank, size, range(2, 3), 0.01))
    return [*weights, whole(engine)], scales


def trained_in(rank: int, size: int, name: str, precision: str) -> dict[str, Any]:
    _, engine = started(name, SGD, precision=precision)
    list(take_steps(engine, rank, size, range(STEPS), 0.01))
    return whole(engine)


@pytest.mark.parametrize("name", ["fsdp", "zero1", "zero2", "zero3"])
def test_fp16_gives_the_same_whoever_scales_the_loss(name: str, worlds: Worlds) -> None:
    expected, scaled = (worlds.run(2, trained_in, engine, "fp16")[0] for engine in ("ddp", name))
    for parameter, values in expected.items():
        torch.testing.assert_close(torch.tensor(scaled[parameter]), torch.tensor(values), rtol=1e-3, atol=1e-4)
    assert expected != worlds.run(2, trained_in, "ddp", "fp32")[0]


def poison(parameter: nn.Parameter) -> None:
    grad = parameter.grad
    assert grad is not None
    local = grad.to_local() if isinstance(grad, DTensor) else grad
    local.view(-1)[0] = float("inf")


@pytest.mark.parametrize(
    ("name", "size"),
    [("single", 1), ("fsdp", 2), ("fsdp", 3), ("zero1", 2), ("zero2", 2), ("zero2", 3), ("zero3", 2)],
)
def test_in_fp16_all_ranks_skip_the_step_that_overflowed_on_one(
    name: str, size: int, worlds: Worlds, tmp_path: Path
) -> None:
    first, *others = worlds.run(size, in_fp16, name, str(tmp_path))
    assert all(other == first for other in others)
    (before, after, later), (scale, halved, read_back) = first
    assert before == after != later
    assert scale / 2 == halved == read_back


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown engine 'magic'"):
        make_engine("magic", EngineSettings(torch.device("cpu"), precision="fp32", clip_norm=None))
