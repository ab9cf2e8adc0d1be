"""One process holds everything: the laptop, the test, and what every other engine must agree with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import isfinite

import torch
from torch import Tensor, nn

from launcher.engines.base import PLAIN, EngineSettings, LocalTensor, ParamOptions, StateDict
from launcher.engines.clipping import scale_to, sum_of_squares
from launcher.engines.optimizer import make_optimizer, parameter_groups, set_rate
from launcher.engines.schedule_free import Result, counters, is_schedule_free, take_counters
from launcher.engines.weight_copies import Copies
from launcher.job.sections.training import Optimizer
from launcher.models.parts.batch import Batch, Losses
from launcher.models.weights.stored import LazyTensors

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Inside, forward passes compute in a precision of the job; fp32 is as they are."""
    return torch.autocast(device.type, AUTOCAST.get(precision), enabled=precision in AUTOCAST)


class SingleEngine:
    """The model and the optimizer, whole, on one device."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._scaler = torch.amp.GradScaler(settings.device.type, enabled=settings.precision == "fp16")
        self._scaling = ("scale", "_growth_tracker") if self._scaler.is_enabled() else ()

    @property
    def module(self) -> nn.Module:
        """The model as prepared, called for evaluation."""
        return self._model

    @property
    def shards_weights(self) -> bool:
        """No: the model comes whole."""
        return False

    def prepare(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        stored: LazyTensors,
        treatments: Mapping[str, ParamOptions] = PLAIN,
    ) -> None:
        """Move the model to the device; make the optimizer."""
        self._model = model.to(self._settings.device).train()
        self._learning = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = make_optimizer(parameter_groups(model.named_parameters(), optimizer, treatments), optimizer)
        groups = self._optimizer.param_groups
        self._copies = Copies(((p, group) for group in groups for p in group["params"]), self._settings)
        self._copies.hook(self._optimizer)
        self._group_of = {p: group for group in groups for p in group["params"]}
        self._result = Result(self._optimizer) if is_schedule_free(self._optimizer) else self._copies

    def accumulate(self, batch: Batch, scale: float, last: bool) -> Losses:
        """Forward and backward of one micro-batch."""
        return self._forward_backward(self._model, batch, scale)

    def step(self, lr: float, discard: bool = False) -> float:
        """Clip, update, zero; the norm before clipping."""
        set_rate(self._optimizer, lr)
        self._scaler.unscale_(self._optimizer)
        norm = self._clip()
        if isfinite(norm) and not discard:
            self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()
        return norm

    def average(self, weight: float) -> None:
        """Let the weights count so much in their average, where one is kept."""
        self._copies.take_in(weight)

    def swap_average(self) -> None:
        """Exchange the weights with their average."""
        self._result.swap()

    def mix(self, share: float) -> None:
        """Go to (1 − share)·start + share·end."""
        self._copies.mix(share)

    def state(self) -> StateDict:
        """Parameters, buffers, moments and copies, sharing memory with the live tensors."""
        # the weights first: FSDP then shards again what an evaluation has left whole
        weights: dict[str, LocalTensor] = dict(saved_tensors(self._model))
        moments: dict[str, dict[str, LocalTensor]] = {
            name: dict(slots)
            for name, p in self._model.named_parameters()
            if p.requires_grad and (slots := {**self._moments(p), **self._copies.saved(p)})
        }
        learning: dict[str, LocalTensor] = {n: p.detach() for n, p in self._model.named_parameters() if p.requires_grad}
        scaler: dict[str, LocalTensor] = {slot: torch.tensor(self._scaler.state_dict()[slot]) for slot in self._scaling}
        return {"model": weights, "learning": learning, "optimizer": moments, "scaler": scaler}

    def load(self, state: StateDict) -> None:
        """Take over a saved state."""
        load_saved(self._model, state["model"])
        self._copies.begin()
        parameters = dict(self._model.named_parameters())
        for name, values in state["optimizer"].items():
            parameter, moments = parameters[name], dict[str, Tensor]()
            for slot, value in values.items():
                assert isinstance(value, Tensor)
                copies = self._copies.of(slot)
                if copies is None:
                    moments[slot] = value.to(self._settings.device)
                elif copies:
                    copies[parameter].copy_(value)
            take_counters(self._group_of[parameter], moments)
            if moments:
                self._optimizer.state[parameter] = moments
        scaler = {slot: value.item() for slot, value in state["scaler"].items() if isinstance(value, Tensor)}
        if scaler:
            self._scaler.load_state_dict(self._scaler.state_dict() | scaler)

    def full_tensors(self, wanted: Callable[[str], bool] = lambda name: True) -> Iterator[tuple[str, Tensor]]:
        """Every parameter and buffer that is saved."""
        return ((name, tensor) for name, tensor in saved_tensors(self._model) if wanted(name))

    def _moments(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        moments = self._optimizer.state.get(parameter, {})
        return {**moments, **counters(self._group_of[parameter])} if moments else {}

    def _clip(self) -> float:
        gradients = self._gradients()
        norm = self._over_all(sum_of_squares(gradients)).sqrt().item()
        scale_to(gradients, norm, self._settings.clip_norm or float("inf"))
        return norm

    def _gradients(self) -> list[Tensor]:
        """This rank's part of each gradient."""
        return [parameter.grad for parameter in self._learning if parameter.grad is not None]

    def _over_all(self, squares: Tensor) -> Tensor:
        """The sum over the ranks where each holds a part."""
        return squares

    def _forward_backward(self, module: nn.Module, batch: Batch, scale: float) -> Losses:
        device, precision = self._settings.device, self._settings.precision
        with autocast(device, precision):
            losses: Losses = module(batch.to(device))
        self._scaler.scale(losses.weighted.sum() * scale).backward()
        return losses


def saved_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers that are saved, each tied one once."""
    once = {name for name, _ in [*model.named_parameters(), *model.named_buffers()]}
    return ((name, tensor) for name, tensor in model.state_dict().items() if name in once)


def load_saved(model: nn.Module, state: Mapping[str, LocalTensor]) -> None:
    """Take over what `saved_tensors` gave, perhaps without what is frozen; a tied tensor has its first name alone."""
    model.load_state_dict(dict(state), strict=False)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    lacking = {name for name, _ in saved_tensors(model)} - frozen - set(state)
    assert not lacking, f"the saved state lacks {sorted(lacking)}"
