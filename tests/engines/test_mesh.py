"""Ranks that hold the same samples and parts of the same layers give the numbers of one process.

The engine here is no part of the product: two ranks hold half of one linear layer each. Whatever the product deals,
sums and gathers, it does over the ranks that hold other samples, so nothing but the engine has to know of the halves.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from launcher.engines.base import EngineSettings
from launcher.engines.clipping import sum_of_squares
from launcher.engines.mesh import data_group, group_along
from launcher.engines.torch_engine import TorchEngine, gradients_of
from launcher.job.schema import Job
from launcher.models.weights.stored import LazyTensors
from launcher.plan.hardware import find_hardware
from launcher.plan.mesh import Mesh
from launcher.plan.planner import make_plan
from launcher.run.attempts import Attempt
from launcher.run.events import Evaluated, EventLog, EventTail, Step
from launcher.run.folder import RunFolder
from launcher.worker.requests.selfcheck import make_material
from tests.worlds import Worlds


class _Gathered(torch.autograd.Function):
    """The columns of all ranks of a group, of which the gradient of each goes back to its own."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, group: Any) -> Tensor:
        ctx.group, ctx.width = group, own.shape[-1]
        parts = [torch.empty_like(own) for _ in dist.get_process_group_ranks(group)]
        dist.all_gather(parts, own.contiguous(), group=group)
        return torch.cat(parts, dim=-1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        place = dist.get_group_rank(ctx.group, dist.get_rank()) * ctx.width
        return gradients[0][..., place : place + ctx.width], None


class _Shared(torch.autograd.Function):
    """The same on all ranks of a group, each of which gives a part of its gradient."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


class HalfLinear(nn.Module):
    """Some of the outputs of a linear layer here, the others on the other ranks of a mesh's axis."""

    def __init__(self, whole: nn.Linear, axis: DeviceMesh) -> None:
        super().__init__()
        self.weight = nn.Parameter(distribute_tensor(whole.weight.detach(), axis, [Shard(0)]))
        self.bias = nn.Parameter(distribute_tensor(whole.bias.detach(), axis, [Shard(0)]))
        self._group = axis.get_group()

    def forward(self, inputs: Tensor) -> Tensor:
        shared = _Shared.apply(inputs, self._group)
        own = nn.functional.linear(shared, self.weight.to_local(), self.bias.to_local())
        return _Gathered.apply(own, self._group)


class Halves:
    """A strategy: the layer before each activation is halved; all else is on every rank."""

    shards_weights = False
    averaged_over = 1

    def __init__(self, mesh: Mesh) -> None:
        group = group_along(mesh, "tensor")
        self._axis = init_device_mesh("cpu", (2,)) if group is None else DeviceMesh.from_group(group, "cpu")
        self._data = data_group(mesh) if mesh.data_size > 1 else None

    def spread(self, model: nn.Module, stored: LazyTensors) -> nn.Module:
        for module in list(model.modules()):
            if type(module).__name__ == "BertIntermediate":
                module.dense = HalfLinear(module.dense, self._axis)
        return model

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def gradient_squares(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        for gradient in gradients_of(parameters) if self._data is not None else ():
            dist.all_reduce(gradient, group=self._data)
        halved = sum_of_squares(gradients_of([each for each in parameters if isinstance(each, DTensor)]))
        dist.all_reduce(halved, group=self._axis.get_group())
        return halved + sum_of_squares(gradients_of([each for each in parameters if not isinstance(each, DTensor)]))

    def whole(self, tensor: Tensor) -> Tensor:
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def refresh(self) -> None:
        pass


class HalvesEngine(TorchEngine):
    """Steps one tensor at a time: torch does not step halves and whole tensors in one call."""

    def prepare(self, *arguments: Any, **options: Any) -> None:
        super().prepare(*arguments, **options)
        for group in self._optimizer.param_groups:
            group["foreach"] = False


ADAPT: dict[str, dict[str, Any]] = {
    "finetune": {"method": "finetune", "l2_sp": 0.01, "average": {"name": "ema", "decay": 0.9}},
    "coral": {"method": "coral"},
    "self-training": {"method": "self-training"},
}


def lay_out(folder: Path, material: Path, method: str, data_size: int) -> RunFolder:
    """The run folder of a job that clips, accumulates and validates twice."""
    target = {"target": {"source": str(material / "train.csv")}} if method != "finetune" else {}
    job = Job.model_validate(
        {
            "name": "halves",
            "model": {"pretrained": str(material / "model"), "dropout": 0.0},
            "task": "text-classification",
            "data": {
                "train": str(material / "train.csv"),
                "validation": {"held-out": str(material / "validation.csv")},
                "cache": str(material / "cache"),
                "allow_leakage": True,
                **target,
            },
            "adapt": ADAPT[method],
            "train": {
                "max_steps": 15,
                "global_batch_size": 10,
                "micro_batch_size": 2,
                "max_length": 32,
                "precision": "fp32",
                "clip_norm": 0.5,
                "optimizer": {"name": "sgd", "lr": 0.2, "momentum": 0.9},
            },
            "validation": {"every": 5, "metric": "loss"},
            "checkpoint": {"result": "last"},
            "launch": {"processes": data_size, "runs": str(folder)},
        }
    )
    run = RunFolder(folder)
    run.logs.mkdir(parents=True)
    run.checkpoints.mkdir()
    run.write_job(job)
    run.write_plan(make_plan(job, run.job_file, find_hardware(), processes=data_size))
    return run


def train(rank: int, size: int, folder: str, arrangement: Mesh | None) -> None:
    """Fine-tune with the ranks of this world, arranged as a mesh, by the engine of halves."""
    from launcher.job.reading.job_file import load_job
    from launcher.worker.rank.preemption import StopRequest
    from launcher.worker.rank.process import RankEnv
    from launcher.worker.rank.run_context import RunContext
    from launcher.worker.rank.world import World
    from launcher.worker.training import setup
    from launcher.worker.training.recipe import fine_tune

    def halves(name: str, settings: EngineSettings) -> HalvesEngine:
        return HalvesEngine(settings, Halves(settings.mesh))

    run = RunFolder(Path(folder))
    log = EventLog(run.events_file if rank == 0 else None)
    world = World.at(RankEnv(rank, rank, size), "cpu", arrangement=arrangement)
    context = RunContext(load_job(run.job_file), run.plan(), run, world, log, Attempt())
    known = setup.make_engine
    if arrangement is not None:
        setup.make_engine = halves  # type: ignore[assignment]
    try:
        fine_tune(context, StopRequest())
    finally:
        setup.make_engine = known
        log.close()


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("halves") / "material"
    make_material(folder)
    lines = (folder / "train.csv").read_text().splitlines()
    (folder / "validation.csv").write_text("\n".join(lines[:24]) + "\n")
    return folder


@pytest.fixture(scope="module")
def by_one(material: Path, tmp_path_factory: pytest.TempPathFactory, worlds: Worlds) -> Callable[[str], RunFolder]:
    """A method's run of one process."""

    @cache
    def made(method: str) -> RunFolder:
        run = lay_out(tmp_path_factory.mktemp("one") / method, material, method, 1)
        worlds.run(1, train, str(run.path), None)
        return run

    return made


def numbers_of(run: RunFolder) -> dict[str, list[float]]:
    events = EventTail(run.events_file).read()
    steps = [event for event in events if isinstance(event, Step)]
    return {
        "losses": [step.loss for step in steps],
        "norms": [step.gradient_norm for step in steps],
        "metrics": [event.metrics["held-out"]["loss"] for event in events if isinstance(event, Evaluated)],
        "result": list(json.loads(run.result_file.read_text())["sets"]["held-out"]["after"].values()),
    }


TWO, FOUR = Mesh(tensor=2), Mesh(replicate=2, tensor=2)
FAST = [(TWO, "finetune"), (FOUR, "coral")]
SLOW = [(mesh, method) for mesh in (TWO, FOUR) for method in ADAPT if (mesh, method) not in FAST]


@pytest.mark.parametrize(("mesh", "method"), [*FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)])
def test_halves_of_a_layer_give_the_numbers_of_one_process(
    mesh: Mesh, method: str, material: Path, by_one: Callable[[str], RunFolder], worlds: Worlds, tmp_path: Path
) -> None:
    run = lay_out(tmp_path / "run", material, method, mesh.data_size)
    worlds.run(mesh.size, train, str(run.path), mesh)
    found, expected = numbers_of(run), numbers_of(by_one(method))
    assert len(found["losses"]) == 15
    for what, values in expected.items():
        assert found[what] == pytest.approx(values, rel=1e-5, abs=1e-6), what
    weights, others = (load_file(each.model / "model.safetensors") for each in (run, by_one(method)))
    assert weights.keys() == others.keys()
    for name, weight in others.items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-5, atol=1e-6)
