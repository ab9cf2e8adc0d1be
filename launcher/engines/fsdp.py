"""Fully sharded data parallel (FSDP2): each rank keeps a shard of every parameter, gradient and moment."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from launcher.engines.base import EngineSettings
from launcher.engines.clipping import sum_of_squares
from launcher.engines.mesh import data_group
from launcher.engines.precision import AUTOCAST
from launcher.engines.torch_engine import gradients_of
from launcher.errors import RequestError
from launcher.models.parts.blocks import repeated_blocks
from launcher.models.weights.stored import LazyTensor, LazyTensors


class FullySharded:
    """`torch.distributed.fsdp.fully_shard`, one block at a time.

    A block's parameters are gathered only while the block computes. Weights, gradients, their reduction and the
    optimizer stay in fp32. Autocast sets the precision of forward and backward, as in every engine. In bf16 the blocks
    are gathered in bf16: otherwise autocast would keep copies of all of them until the backward pass.
    """

    shards_weights = True

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self.averaged_over = settings.mesh.data_size

    def spread(self, model: nn.Module, stored: LazyTensors) -> nn.Module:
        """Shard the model over the data-parallel ranks, and read this rank's shards.

        Raises RequestError for an unknown block.
        """
        device, size = self._settings.device, self._settings.mesh.data_size
        group = data_group(self._settings.mesh)
        self._mesh = (
            init_device_mesh(device.type, (size,)) if group is None else DeviceMesh.from_group(group, device.type)
        )
        for tensor in (*model.parameters(), *model.buffers()):
            if not tensor.is_meta:
                tensor.data = tensor.data.to(device)
                dist.broadcast(tensor.data, group=group, group_src=0)  # as DDP does
        kept_in_files = {name: stored[p] for name, p in model.named_parameters(remove_duplicate=False) if p in stored}
        gathered = AUTOCAST.get(self._settings.precision)
        policy = MixedPrecisionPolicy(gathered, torch.float32, cast_forward_inputs=False)
        for block in blocks_of(model, self._settings.block):
            fully_shard(block, mesh=self._mesh, mp_policy=policy)
        self._whole, self._model = model, fully_shard(model, mesh=self._mesh, mp_policy=policy)
        assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
        _read_slices(model, kept_in_files, device)
        return model.to(device)

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        """Reduce gradients in the last backward pass of a step, or in each if whole gradients do not fit."""
        self._model.set_requires_gradient_sync(last or not self._settings.whole_gradients)
        return nullcontext()

    def gradient_squares(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """Summed over the shards of all ranks."""
        total = sum_of_squares(gradients_of(parameters)).to(self._settings.device)
        dist.all_reduce(total, group=self._mesh.get_group())
        return total

    def whole(self, tensor: Tensor) -> Tensor:
        """Gathered from all ranks."""
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def refresh(self) -> None:
        """Release parameters that an evaluation has left gathered, since they are outdated."""
        for module in self._whole.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def _read_slices(model: nn.Module, kept_in_files: dict[str, LazyTensor], device: torch.device) -> None:
    """Read this rank's rows of the stored tensor into each parameter on the meta device."""
    sharded = dict(model.named_parameters(remove_duplicate=False))
    read: dict[nn.Parameter, nn.Parameter] = {}
    for name, stored in kept_in_files.items():
        meta = sharded[name]
        if meta not in read:
            assert isinstance(meta, DTensor)
            local = torch.empty_like(meta.to_local(), device=device)
            if local.numel():
                (rows,) = meta.__create_chunk_list__()
                start = rows.offsets[0] if meta.ndim else 0
                local.copy_(stored.rows(start, start + len(local)) if meta.ndim else stored.whole())
            whole = DTensor.from_local(
                local, meta.device_mesh, meta.placements, run_check=False, shape=meta.shape, stride=meta.stride()
            )
            read[meta] = nn.Parameter(whole, meta.requires_grad)
    state = {name: read[sharded[name]] for name in kept_in_files}
    model.load_state_dict(state, strict=False, assign=True)


def blocks_of(model: nn.Module, name: str | None) -> list[nn.Module]:
    """The modules to shard one at a time: those of the class `name`, else the members of the outermost lists."""
    if name is None:
        return list(dict.fromkeys(repeated_blocks(model)))  # a module may be in two lists
    found = [module for module in model.modules() if type(module).__name__ == name]
    if not found:
        classes = sorted({type(member).__name__ for member in repeated_blocks(model)})
        raise RequestError(
            f"engine.block: the model has no module {name!r}; its repeated blocks are {', '.join(classes)}"
        )
    return found
