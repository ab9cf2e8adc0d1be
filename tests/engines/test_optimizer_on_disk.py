"""An optimizer that DeepSpeed keeps on a disk is saved, and goes on, as every other one.

DeepSpeed reads and writes through an operation that it compiles with libaio; here plain files take its place.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from launcher.checkpoint.reading import read_state
from launcher.checkpoint.saving import Checkpoints
from launcher.engines.base import Engine
from launcher.engines.deepspeed import _import_deepspeed
from launcher.job.sections.training import Optimizer
from launcher.models.parts.batch import Batch, Losses
from tests.engines.test_engines import ADAMW, engine_of, take_steps
from tests.worlds import Worlds

LR = 1e-3
NVME = "zero3_nvme"


class Wide(nn.Module):
    """Large enough that a rank's slice goes to the disk, which takes a mebibyte; with one that is too small for it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 768), nn.Tanh(), nn.Linear(768, 768), nn.Tanh(), nn.Linear(768, 1))

    def forward(self, batch: Batch) -> Losses:
        errors = (self.model(batch.inputs["x"])[:, 0] - batch.targets).square()
        return Losses(errors * batch.weights, errors.detach())


class Files:
    """What DeepSpeed asks of an asynchronous handle, done at once."""

    def __init__(self, **_: object) -> None:
        self._requests, self._pinned = 0, set[int]()

    def new_cpu_locked_tensor(self, count: int, like: Tensor) -> Tensor:
        made = torch.empty(count, dtype=like.dtype)
        self._pinned.add(made.untyped_storage().data_ptr())
        return made

    def free_cpu_locked_tensor(self, tensor: Tensor) -> None:
        self._pinned.discard(tensor.untyped_storage().data_ptr())

    def is_pinned(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self._pinned

    def async_pwrite(self, tensor: Tensor, path: str, _: int) -> int:
        tensor.detach().numpy().tofile(path)
        self._requests += 1
        return 0

    def async_pread(self, tensor: Tensor, path: str, _: int) -> int:
        tensor.copy_(torch.from_numpy(np.fromfile(path, dtype=np.float32, count=tensor.numel())))
        self._requests += 1
        return 0

    def wait(self) -> int:
        done, self._requests = self._requests, 0
        return done


@contextmanager
def files_in_its_place() -> Iterator[None]:
    _import_deepspeed(torch.device("cpu"))
    from deepspeed.ops.op_builder import AsyncIOBuilder

    load, AsyncIOBuilder.load = AsyncIOBuilder.load, lambda *_, **__: SimpleNamespace(aio_handle=Files)
    try:
        yield
    finally:
        AsyncIOBuilder.load = load


def prepared(name: str, folder: str) -> Engine:
    engine: Any = engine_of(name)
    if name == NVME:
        file = engine._settings.deepspeed
        file.write_text(json.dumps(json.loads(file.read_text())).replace('"auto"', json.dumps(folder)))
    engine.prepare(Wide(), Optimizer.model_validate(ADAMW | {"lr": LR}), {})
    if name == NVME:
        sizes = [flat.numel() for flat in engine._zero.fp32_partitioned_groups_flat]
        assert 0 in sizes, "on the disk"
        assert any(sizes), "too small for it"
    return engine


def train_steps(rank: int, size: int, name: str, folder: str, steps: range) -> dict[str, Any]:
    """Take `steps`, from the checkpoint there where they do not begin at 0, and save one at their end."""
    checkpoints = Checkpoints(Path(folder) / "checkpoints", keep=9)
    with files_in_its_place():
        engine = prepared(name, folder)
        if steps.start:
            engine.load(read_state(checkpoints.at(steps.start), engine.state()))
        list(take_steps(engine, rank, size, steps, LR))
        checkpoints.save(steps.stop, engine.state(), {}, best_step=None)
        return {name: tensor.numpy().copy() for name, tensor in engine.full_tensors()}


@pytest.mark.parametrize(("first", "then"), [(NVME, NVME), (NVME, "fsdp"), ("zero1", NVME)])
def test_it_is_saved_and_goes_on(first: str, then: str, worlds: Worlds, tmp_path: Path) -> None:
    expected = worlds.run(2, train_steps, "zero3", str(tmp_path / "expected"), range(4))[0]
    worlds.run(2, train_steps, first, str(tmp_path), range(2))
    for found in worlds.run(2, train_steps, then, str(tmp_path), range(2, 4)):
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=2e-5)
