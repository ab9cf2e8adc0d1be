"""Fully sharded data parallel (FSDP2): each rank keeps a slice of every parameter, gradient and moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from launcher.engines.base import PLAIN, ParamOptions
from launcher.engines.single import AUTOCAST, SingleEngine
from launcher.errors import RequestError
from launcher.job.sections.training import Optimizer
from launcher.models.parts.batch import Batch, Losses
from launcher.models.parts.blocks import repeated_blocks
from launcher.models.weights.stored import LazyTensor, LazyTensors


class FSDPEngine(SingleEngine):
    """`torch.distributed.fsdp.fully_shard`, a block at a time, around the single engine's model.

    A block's parameters are whole on a rank only while the block computes. Weights, gradients, their reduction and the
    optimizer stay in fp32; autocast decides what the forward and backward compute in, as in every engine. In bf16 the
    blocks are gathered in bf16 already: autocast would keep copies of all of them until the backward pass.
    """

    @property
    def shards_weights(self) -> bool:
        """Yes: no rank needs more than its slices."""
        return True

    def prepare(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        stored: LazyTensors,
        treatments: Mapping[str, ParamOptions] = PLAIN,
    ) -> None:
        """Shard the model over all ranks, read this rank's slices, make the optimizer over them.

        Raises RequestError for an unknown block.
        """
        device = self._settings.device
        for tensor in (*model.parameters(), *model.buffers()):
            if not tensor.is_meta:
                tensor.data = tensor.data.to(device)
                dist.broadcast(tensor.data, src=0)  # as DDP does: rank 0's start is everyone's
        kept_in_files = {name: stored[p] for name, p in model.named_parameters(remove_duplicate=False) if p in stored}
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        gathered = AUTOCAST.get(self._settings.precision)
        policy = MixedPrecisionPolicy(gathered, torch.float32, cast_forward_inputs=False)
        for block in blocks_of(model, self._settings.block):
            fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(model, mesh=mesh, mp_policy=policy)
        _read_slices(model, kept_in_files, device)
        super().prepare(model, optimizer, {}, treatments)

    def accumulate(self, batch: Batch, scale: float, last: bool) -> Losses:
        """Forward and backward. FSDP divides the gradients' sum by the world's size, which is undone here."""
        assert isinstance(self._model, FSDPModule)
        self._model.set_requires_gradient_sync(last or not self._settings.whole_gradients)
        return self._forward_backward(self._model, batch, scale * dist.get_world_size())

    def swap_average(self) -> None:
        """Exchange the weights with their average."""
        super().swap_average()
        self._forget_whole_weights()

    def mix(self, share: float) -> None:
        """Go to (1 − share)·start + share·end."""
        super().mix(share)
        self._forget_whole_weights()

    def full_tensors(self, wanted: Callable[[str], bool] = lambda name: True) -> Iterator[tuple[str, Tensor]]:
        """Every parameter and buffer that is saved, gathered one at a time by all ranks."""
        for name, tensor in super().full_tensors(wanted):
            yield name, tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def _forget_whole_weights(self) -> None:
        """What an evaluation has left whole is of other weights."""
        for module in self._model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def _gradients(self) -> list[Tensor]:
        """Of each gradient the slice that this rank holds."""
        gradients = super()._gradients()
        assert all(isinstance(gradient, DTensor) for gradient in gradients)
        return [gradient.to_local() for gradient in gradients if isinstance(gradient, DTensor)]

    def _over_all(self, squares: Tensor) -> Tensor:
        """Each rank holds its own slices."""
        total = squares.to(self._settings.device)
        dist.all_reduce(total)
        return total


def _read_slices(model: nn.Module, kept_in_files: dict[str, LazyTensor], device: torch.device) -> None:
    """Give each parameter on the meta device this rank's rows of its stored tensor."""
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
    """What is sharded one at a time: modules of the class `name`, or else the members of the outermost lists."""
    if name is None:
        return list(dict.fromkeys(repeated_blocks(model)))  # a module may be a part of two
    found = [module for module in model.modules() if type(module).__name__ == name]
    if not found:
        classes = sorted({type(member).__name__ for member in repeated_blocks(model)})
        raise RequestError(
            f"engine.block: the model has no module {name!r}; its repeated blocks are {', '.join(classes)}"
        )
    return found
