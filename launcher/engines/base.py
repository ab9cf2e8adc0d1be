"""What every engine does, cut for the hardest first.

DeepSpeed sets up model and optimizer together, clips inside its step and decides at the accumulation
boundary, so none of these is a call of its own.
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
"""What a rank holds of a tensor: all of it, a `DTensor`'s shard, or a run of elements."""


class StateDict(TypedDict):
    """Training state of one rank, named by the model's own parameter names.

    model: parameters and buffers
    learning: of each parameter that this rank steps a part of, that part; its moments are laid out likewise
    optimizer: for each of those, its moments, which are empty before the first step, and what options keep of it
    scaler: how much the loss is scaled; empty where it is not
    """

    model: dict[str, LocalTensor]
    learning: dict[str, LocalTensor]
    optimizer: dict[str, dict[str, LocalTensor]]
    scaler: dict[str, LocalTensor]


@dataclass(frozen=True)
class LocalParameter:
    """What this rank steps of a parameter.

    name: of the parameter, which may be on other ranks too
    held: its part here; shares memory with what the optimizer steps
    group: of the optimizer; its `lr` is the rate of the latest update, or of the one that is about to be made
    """

    name: str
    held: LocalTensor
    group: Mapping[str, Any]

    @property
    def tensor(self) -> Tensor:
        """The part as a plain tensor."""
        return local(self.held)

    @property
    def is_new(self) -> bool:
        """Whether the pretrained model lacks the parameter."""
        return bool(self.group["is_new"])


def local(held: LocalTensor) -> Tensor:
    """This rank's part, without gradient, sharing memory."""
    if isinstance(held, FlatSlice):
        return held.local
    return (held.to_local() if isinstance(held, DTensor) else held).detach()


def cloned(held: LocalTensor) -> LocalTensor:
    """The same part in new memory on the same device."""
    if isinstance(held, FlatSlice):
        return FlatSlice(held.local.clone(), held.shape, held.start)
    return held.detach().clone()


def nothing() -> None:
    """What is done before an update where nothing is."""


@dataclass(frozen=True)
class ParamOptions:
    """What tells a parameter that learns from others.

    factor: what its learning rate is multiplied by
    since: the stage of the run in which it begins to learn
    is_new: the pretrained model lacks it
    """

    factor: float = 1.0
    since: int = 0
    is_new: bool = False


PLAIN: Mapping[str, ParamOptions] = {}
"""All alike."""


@dataclass(frozen=True)
class EngineSettings:
    """What an engine needs to know of the run.

    device: where this rank computes
    precision: of forward and backward; weights and optimizer stay fp32
    clip_norm: largest norm of the whole gradient, None for no clipping
    block: class of the modules that are sharded one at a time; None finds them
    deepspeed: the rendered DeepSpeed JSON; only its engine needs it
    mesh: how the ranks are arranged; what an engine averages over follows from it
    whole_gradients: an engine that slices gradients may have them whole between the micro-batches of a step, which
        saves their travelling and costs their memory
    """

    device: torch.device
    precision: Literal["fp32", "bf16", "fp16"]
    clip_norm: float | None
    block: str | None = None
    deepspeed: Path | None = None
    mesh: Mesh = field(default_factory=Mesh)
    whole_gradients: bool = True


class Engine(Protocol):
    """How the model is spread; the loop knows no more of parallelism than this."""

    @property
    def module(self) -> nn.Module:
        """The model as prepared, called for evaluation."""

    @property
    def shards_weights(self) -> bool:
        """Whether `prepare` takes a model whose weights are still in their files."""

    def prepare(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        stored: LazyTensors,
        options: Mapping[str, ParamOptions] = PLAIN,
    ) -> None:
        """Shard or wrap the model, read what is still in files, make the optimizer.

        stored: for each parameter on the meta device, where its values are
        options: by the names of parameters; the others have the plain ones
        """

    def accumulate(self, batch: Batch, scale: float, last: bool) -> Losses:
        """Forward and backward of one micro-batch.

        scale: one over the global batch's sum of weights; the gradient of Σ weightᵢ·lossᵢ·scale over all
        ranks and micro-batches is what `step` uses, whatever averaging the library does
        last: gradients need not travel before
        """

    def step(self, lr: float, discard: bool = False, before_update: Callable[[], None] = nothing) -> float:
        """Clip, update, zero. Returns the norm of the whole gradient before clipping.

        discard: zero only. So does a norm that is not finite, which is then what is returned
        before_update: called once the rates are set and it is sure that the weights are updated; may change them
        """

    def local_parameters(self) -> Sequence[LocalParameter]:
        """What this rank steps, for averages, pulls and mixtures of weights; call `refresh` after changing any."""

    def refresh(self) -> None:
        """Let the module compute with what the local parameters hold now."""

    def swap_result(self) -> None:
        """Exchange what the optimizer steps with what is its result, where these differ; a second time puts both back,
        to the last bit.
        """

    def state(self) -> StateDict:
        """The training state, sharing memory with the live tensors."""

    def load(self, state: StateDict) -> None:
        """Take over a state that has the structure of `state()`, or of `without(state(), …)`."""

    def full_tensors(self, wanted: Callable[[str], bool] = lambda name: True) -> Iterator[tuple[str, Tensor]]:
        """Parameters and buffers whole, one at a time, each tied one once. Every rank takes part.

        wanted: says of a name whether it is among them; the others are not gathered
        """


def without(state: StateDict, names: Collection[str]) -> StateDict:
    """The state but for the parameters of some names, which never learn."""
    return {**state, "model": {name: held for name, held in state["model"].items() if name not in names}}
