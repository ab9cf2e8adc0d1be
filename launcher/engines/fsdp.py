"""Fully sharded data parallel (FSDP2): each rank keeps a slice of every parameter, gradient and moment."""

from __future__ import annotations

from collections.abc import Iterator

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from launcher.engines.single import SingleEngine
from launcher.errors import RequestError
from launcher.job.schema import Optimizer
from launcher.models.batch import Batch, Losses


class FSDPEngine(SingleEngine):
    """`torch.distributed.fsdp.fully_shard`, a block at a time, around the single engine's model.

    A block's parameters are whole on a rank only while the block computes. Weights, gradients, their reduction and the
    optimizer stay in fp32; autocast decides what the forward and backward compute in, as in every engine.
    """

    def prepare(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Shard the model over all ranks; make the optimizer over the slices.

        Raises RequestError for an unknown block.
        """
        model.to(self._settings.device)
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, src=0)  # as DDP does: rank 0's start is everyone's
        mesh = init_device_mesh(self._settings.device.type, (dist.get_world_size(),))
        for block in blocks_of(model, self._settings.block):
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        super().prepare(model, optimizer)

    def accumulate(self, batch: Batch, scale: float, last: bool) -> Losses:
        """Forward and backward. FSDP divides the gradients' sum by the world's size, which is undone here."""
        assert isinstance(self._model, FSDPModule)
        self._model.set_requires_gradient_sync(last)
        return self._forward_backward(self._model, batch, scale * dist.get_world_size())

    def full_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter and buffer that is saved, gathered one at a time by all ranks."""
        for name, tensor in super().full_tensors():
            yield name, tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def _clip(self) -> float:
        norm = nn.utils.clip_grad_norm_(self._learning, self._settings.clip_norm or float("inf"))
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def blocks_of(model: nn.Module, name: str | None) -> list[nn.Module]:
    """What is sharded one at a time: modules of the class `name`, or else the members of the outermost lists."""
    if name is None:
        return list(_members_of_lists(model))
    found = [module for module in model.modules() if type(module).__name__ == name]
    if not found:
        classes = sorted({type(member).__name__ for member in _members_of_lists(model)})
        raise RequestError(
            f"engine.block: the model has no module {name!r}; its repeated blocks are {', '.join(classes)}"
        )
    return found


def _members_of_lists(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.ModuleList) and len(child) > 1:
            yield from (member for member in child if any(True for _ in member.parameters()))
        else:
            yield from _members_of_lists(child)
