"""The interface of every engine, designed for the most restrictive one.

DeepSpeed sets up model and optimizer together, clips inside its step, and updates at the accumulation boundary. So none
of these is a method of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypedDict

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from launcher.engines.flat_slice import FlatSlice
from launcher.job.sections.training import Optimizer
from launcher.models.parts.batch import Batch, Losses
from launcher.models.weights.stored import LazyTensors
from launcher.plan.mesh import Mesh

LocalTensor = Tensor | FlatSlice
"""A rank's part of a tensor: all of it, a `DTensor`'s shard, or a contiguous range of elements."""


class StateDict(TypedDict):
    """Training state of one rank, named by the model's own parameter names.

    model: parameters and buffers
    learning: this rank's shard of each parameter that it updates; the moments have the same layout
    optimizer: the moments of each of those, empty before the first step, and the weight options' copies of it
    scaler: state of the loss scaler; empty without loss scaling
    """

    model: dict[str, LocalTensor]
    learning: dict[str, LocalTensor]
    optimizer: dict[str, dict[str, LocalTensor]]
    scaler: dict[str, LocalTensor]


@dataclass(frozen=True)
class LocalParameter:
    """This rank's shard of a parameter, as the optimizer updates it.

    name: of the parameter, which may be on other ranks too
    held: the shard; shares memory with the tensor that the optimizer updates
    group: its optimizer group, whose `lr` is the rate of the latest update, or of the update about to be made
    """

    name: str
    held: LocalTensor
    group: Mapping[str, Any]

    @property
    def tensor(self) -> Tensor:
        """The shard as a plain tensor."""
        return local(self.held)

    @property
    def is_new(self) -> bool:
        """Whether the pretrained model lacks the parameter."""
        return bool(self.group["is_new"])


def local(held: LocalTensor) -> Tensor:
    """This rank's shard, without gradient, sharing memory."""
    if isinstance(held, FlatSlice):
        return held.local
    return (held.to_local() if isinstance(held, DTensor) else held).detach()


def cloned(held: LocalTensor) -> LocalTensor:
    """A copy of the shard on the same device."""
    if isinstance(held, FlatSlice):
        return FlatSlice(held.local.clone(), held.shape, held.start)
    return held.detach().clone()


def nothing() -> None:
    """The default of `before_update`, which does nothing."""


@dataclass(frozen=True)
class ParamOptions:
    """Options of one trainable parameter.

    factor: multiplies its learning rate
    since: the stage of the run from which it is trained
    is_new: the pretrained model lacks it
    """

    factor: float = 1.0
    since: int = 0
    is_new: bool = False


PLAIN: Mapping[str, ParamOptions] = {}
"""No parameter has options of its own."""


@dataclass(frozen=True)
class EngineSettings:
    """What an engine needs to know about the run.

    device: this rank's device
    precision: of forward and backward; weights and optimizer stay fp32
    clip_norm: maximum norm of the whole gradient, None for no clipping
    block: class of the modules that are sharded one at a time; None detects it
    deepspeed: the rendered DeepSpeed JSON; only its engine needs it
    mesh: how the ranks are arranged, from which follows over which of them gradients are averaged
    whole_gradients: an engine that shards gradients may keep them whole between the micro-batches of a step, which
        saves communication and costs memory
    """

    device: torch.device
    precision: Literal["fp32", "bf16", "fp16"]
    clip_norm: float | None
    block: str | None = None
    deepspeed: Path | None = None
    mesh: Mesh = field(default_factory=Mesh)
    whole_gradients: bool = True


class Engine(Protocol):
    """How the model is distributed. The training loop uses parallelism only through this interface."""

    @property
    def module(self) -> nn.Module:
        """The model as prepared, called for evaluation."""

    @property
    def shards_weights(self) -> bool:
        """Whether `prepare` accepts a model whose weights have not been read from their files yet."""

    def prepare(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        stored: LazyTensors,
        options: Mapping[str, ParamOptions] = PLAIN,
    ) -> None:
        """Shard or wrap the model, read the weights that are still in files, make the optimizer.

        stored: where the values of each parameter on the meta device are stored
        options: by parameter name; other parameters have none
        """

    def accumulate(self, batch: Batch, scale: float, last: bool) -> Losses:
        """Forward and backward of one micro-batch.

        scale: one over the global batch's sum of weights; `step` uses the gradient of Σ weightᵢ·lossᵢ·scale over all
        ranks and micro-batches, whatever averaging the library does
        last: whether this is the last micro-batch of the step; gradients need not be reduced before it
        """

    def step(self, lr: float, discard: bool = False, before_update: Callable[[], None] = nothing) -> float:
        """Clip, update, zero. Returns the norm of the whole gradient before clipping.

        discard: only zero the gradients. The same happens if the norm is NaN or infinite; it is then returned
        before_update: called when the rates are set and the update is certain to happen; may change the weights
        """

    def local_parameters(self) -> Sequence[LocalParameter]:
        """The shards that this rank updates, for weight averaging, L2-SP and interpolation.

        Call `refresh` after changing any of them.
        """

    def refresh(self) -> None:
        """Copy the current local parameters to the weights that the module computes with."""

    def swap_result(self) -> None:
        """Exchange the weights that the optimizer updates with those of its result, if these differ.

        A second call restores both bit for bit.
        """

    def state(self) -> StateDict:
        """The training state, sharing memory with the live tensors."""

    def load(self, state: StateDict) -> None:
        """Load a state that has the structure of `state()`, or of `without(state(), …)`."""

    def full_tensors(self, wanted: Callable[[str], bool] = lambda name: True) -> Iterator[tuple[str, Tensor]]:
        """Parameters and buffers, gathered one at a time, each tied one once. Every rank must call this.

        wanted: whether to gather the tensor of a name; the others are left out
        """


def without(state: StateDict, names: Collection[str]) -> StateDict:
    """The state without the named parameters, which are never trained."""
    return {**state, "model": {name: held for name, held in state["model"].items() if name not in names}}
