"""Steps of every method are those of its formula over the whole global batch, on every engine and in every split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from launcher.job.sections.methods import SECTIONS
from tests.adapt.domains import data_of, lay_out, make_material, weights
from tests.adapt.formulas import CASES
from tests.adapt.reference import Reference, saved
from tests.adapt.runs import losses, train
from tests.worlds import Worlds

BATCH = 64
ALONE, SHARED = ("single", 1, 7), [("ddp", 4, 16), ("fsdp", 2, 20)]
WAYS = [ALONE, *SHARED, ("single", 1, 64), ("zero2", 2, 20), ("zero3", 2, 20)]
"""Engine, world, micro-batch. Each method is tried alone and shared by turns; the other ways are slow."""
GRID = [
    pytest.param(
        method,
        way,
        marks=() if way in (ALONE, SHARED[number % 2]) else pytest.mark.slow,
        id="-".join(map(str, (method, *way))),
    )
    for number, method in enumerate(CASES)
    for way in WAYS
]
OF_LOSS, OF_GRADIENT = 5e-7, 5e-6
"""Relative distance from the formula, so that any two ways are within 1e-6 and 1e-5 of each other."""


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_material(tmp_path_factory.mktemp("domains"))


@pytest.mark.parametrize(("method", "way"), GRID)
def test_steps_are_those_of_the_formula(
    method: str, way: tuple[str, int, int], material: Path, worlds: Worlds, tmp_path: Path
) -> None:
    (engine, world, micro), case = way, CASES[method]
    plain = {"name": "sgd", "lr": case.rate, "momentum": 0.0, "weight_decay": 0.0}
    step = {"max_steps": case.task_steps, "global_batch_size": BATCH, "clip_norm": None, "optimizer": plain}
    changes: dict[str, Any] = {"train": step, "checkpoint": {"every_steps": 1}, **data_of(method, material)}
    if case.is_trained:
        changes["model"] = {"pretrained": str(material / "trained")}
    run = lay_out(tmp_path, material, engine, world, {"method": method, **case.settings}, micro=micro, **changes)
    worlds.run(world, train, [(str(run.path), None)], timeout=240)
    told, reference = losses(run), Reference(run, case.parts)
    assert len(told) == case.steps
    for number in range(case.steps):
        reference.go_to(number)
        loss = case.formula(reference)
        loss.backward(retain_graph=True)
        assert told[number] == pytest.approx(float(loss.detach()), rel=OF_LOSS), number
        check_gradients(method, reference, saved(run, number + 1))
    if SECTIONS[method].target == "alongside":
        assert share_beside_the_task(reference) > 0.1, "so small an error as is allowed is one of what is added, too"
    last = saved(run, case.steps)
    assert all(np.array_equal(tensor, last[f"model.{name}"].numpy()) for name, tensor in weights(run).items())


def check_gradients(method: str, reference: Reference, after: dict[str, Tensor]) -> None:
    """Those of the model, and those of what the method adds: the errors are small beside the length of each."""
    tied = {name for name in after if name.startswith("parts.") and ".decoder." in name}
    assert {*after} - tied == {*reference.weights}
    learned = 0
    for whose in ("model.", "parts."):
        mine = {name: weight for name, weight in reference.weights.items() if name.startswith(whose)}
        gradients = {n: torch.zeros_like(w) if w.grad is None else w.grad for n, w in mine.items()}
        length = sum(float(gradient.square().sum()) for gradient in gradients.values()) ** 0.5
        for name, weight in mine.items():
            before = weight.detach()
            if (method == "tent" and "LayerNorm" not in name) or (method == "shot" and "classifier" in name):
                assert torch.equal(after[name], before.float()), f"{name} is frozen"
                continue
            found = (before - after[name].double()) / CASES[method].rate_of(name)
            assert float((found - gradients[name]).norm()) <= OF_GRADIENT * length, (reference.step, name)
            learned += 1
    assert learned > 5


def share_beside_the_task(reference: Reference) -> float:
    """How long what the method adds to the model's gradient is beside the whole."""
    model = list(reference.model.parameters())
    of_task = torch.autograd.grad(reference.task_loss, model, allow_unused=True)
    whole = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in model]
    added = [g if task is None else g - task for g, task in zip(whole, of_task, strict=True)]
    lengths = [float(torch.cat([g.flatten() for g in gradients]).norm()) for gradients in (added, whole)]
    return lengths[0] / lengths[1]


def test_every_method_has_a_formula() -> None:
    with_formula = {name for name, section in SECTIONS.items() if not section.is_plain and name != "own"}
    assert set(CASES) == with_formula
