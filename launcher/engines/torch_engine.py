"""The engine with a torch optimizer, over whole or sharded weights according to its strategy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from math import isfinite
from typing import Protocol

import torch
from torch import Tensor, nn

from launcher.engines.base import (
    PLAIN,
    EngineSettings,
    LocalParameter,
    LocalTensor,
    ParamOptions,
    StateDict,
    local,
    nothing,
)
from launcher.engines.clipping import scale_to
from launcher.engines.optimizer import make_optimizer, parameter_groups, set_rate
from launcher.engines.precision import autocast
from launcher.engines.saved_tensors import load_saved, saved_tensors
from launcher.engines.schedule_free import Result, counters, is_schedule_free, take_counters
from launcher.job.sections.training import Optimizer
from launcher.models.parts.batch import Batch, Losses
from launcher.models.weights.stored import LazyTensors


class Strategy(Protocol):
    """How the model is distributed and gradients are reduced: all that `single`, `ddp` and `fsdp` differ in."""

    @property
    def shards_weights(self) -> bool:
        """Whether `spread` accepts a model whose weights have not been read from their files yet."""

    @property
    def averaged_over(self) -> int:
        """Number of ranks over which gradients are averaged instead of summed; 1 if nothing is averaged."""

    def spread(self, model: nn.Module, stored: LazyTensors) -> nn.Module:
        """Move the model to the device, wrap it or shard it in place. Returns the module to call in training."""

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        """Context of a micro-batch's forward and backward; gradients need not be reduced before a step's `last` one."""

    def gradient_squares(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """The sum of squares of the whole gradient, the same on all ranks: a float64 scalar."""

    def whole(self, tensor: Tensor) -> Tensor:
        """Gather a parameter or buffer that may be sharded. Every rank must call this."""

    def refresh(self) -> None:
        """Discard gathered copies of weights that have changed."""


class TorchEngine:
    """A model distributed by a strategy, and a `torch.optim` optimizer over this rank's shards."""

    def __init__(self, settings: EngineSettings, strategy: Strategy) -> None:
        self._settings, self._strategy = settings, strategy
        self._scaler = torch.amp.GradScaler(settings.device.type, enabled=settings.precision == "fp16")
        self._scaling = ("scale", "_growth_tracker") if self._scaler.is_enabled() else ()

    @property
    def module(self) -> nn.Module:
        """The model as prepared, called for evaluation."""
        return self._model

    @property
    def shards_weights(self) -> bool:
        """Whether the strategy does."""
        return self._strategy.shards_weights

    def prepare(
        self, model: nn.Module, optimizer: Optimizer, stored: LazyTensors, options: Mapping[str, ParamOptions] = PLAIN
    ) -> None:
        """Distribute the model and make the optimizer over this rank's shards."""
        self._in_training = self._strategy.spread(model, stored)
        self._model = model.train()
        self._learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._optimizer = make_optimizer(parameter_groups(model.named_parameters(), optimizer, options), optimizer)
        self._group_of = {p: group for group in self._optimizer.param_groups for p in group["params"]}
        self._local = tuple(
            LocalParameter(name, parameter, self._group_of[parameter])
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        )
        self._result = Result(self._optimizer) if is_schedule_free(self._optimizer) else None

    def accumulate(self, batch: Batch, scale: float, last: bool) -> Losses:
        """Forward and backward of one micro-batch. Averaging over ranks is undone here."""
        device, precision = self._settings.device, self._settings.precision
        with self._strategy.accumulating(last):
            with autocast(device, precision):
                losses: Losses = self._in_training(batch.to(device))
            self._scaler.scale(losses.weighted.sum() * (scale * self._strategy.averaged_over)).backward()
        return losses

    def step(self, lr: float, discard: bool = False, before_update: Callable[[], None] = nothing) -> float:
        """Clip, update, zero. Returns the norm before clipping."""
        set_rate(self._optimizer, lr)
        self._scaler.unscale_(self._optimizer)
        norm = self._clip()
        if isfinite(norm) and not discard:
            before_update()
            self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()
        return norm

    def local_parameters(self) -> Sequence[LocalParameter]:
        """The shards that this rank updates."""
        return self._local

    def refresh(self) -> None:
        """Make the module compute with the current local parameters."""
        self._strategy.refresh()

    def swap_result(self) -> None:
        """Exchange the weights with the result of schedule-free AdamW, if that is the optimizer."""
        if self._result is not None:
            self._result.swap()
            self._strategy.refresh()

    def state(self) -> StateDict:
        """Parameters, buffers and moments, sharing memory with the live tensors."""
        # the weights first: FSDP then reshards what an evaluation has left gathered
        weights: dict[str, LocalTensor] = dict(saved_tensors(self._model))
        moments: dict[str, dict[str, LocalTensor]] = {
            name: dict(slots)
            for name, parameter in self._model.named_parameters()
            if parameter.requires_grad and (slots := self._moments(parameter))
        }
        learning: dict[str, LocalTensor] = {n: p.detach() for n, p in self._model.named_parameters() if p.requires_grad}
        scaler: dict[str, LocalTensor] = {slot: torch.tensor(self._scaler.state_dict()[slot]) for slot in self._scaling}
        return {"model": weights, "learning": learning, "optimizer": moments, "scaler": scaler}

    def load(self, state: StateDict) -> None:
        """Load a saved state."""
        load_saved(self._model, state["model"])
        parameters = dict(self._model.named_parameters())
        for name, values in state["optimizer"].items():
            parameter, moments = parameters[name], dict[str, Tensor]()
            for slot, value in values.items():
                assert isinstance(value, Tensor)
                moments[slot] = value.to(self._settings.device)
            take_counters(self._group_of[parameter], moments)
            if moments:
                self._optimizer.state[parameter] = moments
        scaler = {slot: value.item() for slot, value in state["scaler"].items() if isinstance(value, Tensor)}
        if scaler:
            self._scaler.load_state_dict(self._scaler.state_dict() | scaler)

    def full_tensors(self, wanted: Callable[[str], bool] = lambda name: True) -> Iterator[tuple[str, Tensor]]:
        """Every saved parameter and buffer, gathered one at a time if sharded."""
        return ((name, self._strategy.whole(tensor)) for name, tensor in saved_tensors(self._model) if wanted(name))

    def _moments(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        moments = self._optimizer.state.get(parameter, {})
        return {**moments, **counters(self._group_of[parameter])} if moments else {}

    def _clip(self) -> float:
        used = [parameter for parameter in self._learning if parameter.grad is not None]
        norm = self._strategy.gradient_squares(used).sqrt().item()
        scale_to(gradients_of(used), norm, self._settings.clip_norm or float("inf"))
        return norm


def gradients_of(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """This rank's shard of each gradient."""
    return [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
