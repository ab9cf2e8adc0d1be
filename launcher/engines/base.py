"""What every engine does, cut for the hardest first.

DeepSpeed sets up model and optimizer together, clips inside its step and decides at the accumulation
boundary, so none of these is a call of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypedDict

import torch
from torch import Tensor, nn

from launcher.engines.flat_slice import FlatSlice
from launcher.job.sections.training import Optimizer
from launcher.models.parts.batch import Batch, Losses
from launcher.models.weights.stored import LazyTensors

LocalTensor = Tensor | FlatSlice
"""What a rank holds of a tensor: all of it, a `DTensor`'s shard, or a run of elements."""


class StateDict(TypedDict):
    """Training state of one rank, named by the model's own parameter names.

    model: parameters and buffers
    learning: of each parameter that this rank steps a part of, that part; its moments are laid out likewise
    optimizer: for each of those, its moments, which are empty before the first step, and copies kept beside it
    scaler: how much the loss is scaled; empty where it is not
    """

    model: dict[str, LocalTensor]
    learning: dict[str, LocalTensor]
    optimizer: dict[str, dict[str, LocalTensor]]
    scaler: dict[str, LocalTensor]


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
    pull: share of the way back to where they came from that pretrained weights go in a step, for each unit of its rate
    averages: an average of the weights is kept
    keeps_start: what the weights came from is kept, for `mix`
    whole_gradients: an engine that slices gradients may have them whole between the micro-batches of a step, which
        saves their travelling and costs their memory
    """

    device: torch.device
    precision: Literal["fp32", "bf16", "fp16"]
    clip_norm: float | None
    block: str | None = None
    deepspeed: Path | None = None
    pull: float = 0.0
    averages: bool = False
    keeps_start: bool = False
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
        treatments: Mapping[str, ParamOptions] = PLAIN,
    ) -> None:
        """Shard or wrap the model, read what is still in files, make the optimizer.

        stored: for each parameter on the meta device, where its values are
        treatments: by the names of parameters; the others are treated plainly
        """

    def accumulate(self, batch: Batch, scale: float, last: bool) -> Losses:
        """Forward and backward of one micro-batch.

        scale: one over the global batch's sum of weights; the gradient of Σ weightᵢ·lossᵢ·scale over all
        ranks and micro-batches is what `step` uses, whatever averaging the library does
        last: gradients need not travel before
        """

    def step(self, lr: float, discard: bool = False) -> float:
        """Clip, update, zero. Returns the norm of the whole gradient before clipping.

        discard: zero only. So does a norm that is not finite, which is then what is returned
        """

    def average(self, weight: float) -> None:
        """Let the weights count so much in their average, where one is kept."""

    def swap_average(self) -> None:
        """Exchange the weights with their average; a second time puts both back, to the last bit."""

    def mix(self, share: float) -> None:
        """Go to (1 − share)·start + share·end; the end is where the weights were at the first call."""

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
