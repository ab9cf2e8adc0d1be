"""DeepSpeed's ZeRO: optimizer state (stage 1), gradients (2) and weights (3) sharded over the ranks, or offloaded.

DeepSpeed's attributes for the shards are private. All of them that are needed are used in this file only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from launcher.engines.base import (
    PLAIN,
    EngineSettings,
    LocalParameter,
    LocalTensor,
    ParamOptions,
    StateDict,
    nothing,
)
from launcher.engines.flat_slice import FlatSlice
from launcher.engines.mesh import process_rank
from launcher.engines.optimizer import make_optimizer, parameter_groups, set_rate
from launcher.engines.precision import AUTOCAST, LossScale, autocast
from launcher.engines.saved_tensors import load_saved, saved_tensors
from launcher.job.sections.training import Optimizer
from launcher.models.parts.batch import Batch, Losses
from launcher.models.weights.stored import LazyTensors


@dataclass(frozen=True)
class FragmentLocation:
    """Where the fragment of a parameter that this rank updates is stored.

    flat: 1-D, the shard of a parameter group that the optimizer updates as one tensor
    offset: of the fragment in `flat`; start: of the fragment in the parameter, row-major; count: its elements
    """

    flat: Tensor
    offset: int
    start: int
    count: int

    def of(self, flat: Tensor, shape: torch.Size) -> FlatSlice:
        """The fragment in a tensor with the layout of `flat`."""
        return FlatSlice(flat.narrow(0, self.offset, self.count), shape, self.start)


class DeepSpeedEngine:
    """`deepspeed.initialize` over the same optimizer as every engine.

    Weights stay in fp32 and autocast sets the compute precision, so that results equal those of the other engines.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        assert settings.deepspeed is not None
        config = json.loads(settings.deepspeed.read_text(encoding="utf-8"))
        self._sharded = config["zero_optimization"]["stage"] == 3
        self._before_update: Callable[[], None] = nothing
        self._scale = LossScale() if settings.precision == "fp16" else None

    @property
    def module(self) -> nn.Module:
        """The model as prepared, called for evaluation."""
        return self._model

    @property
    def shards_weights(self) -> bool:
        """True in stage 3."""
        return self._sharded

    def prepare(
        self, model: nn.Module, optimizer: Optimizer, stored: LazyTensors, options: Mapping[str, ParamOptions] = PLAIN
    ) -> None:
        """Initialise DeepSpeed with model, optimizer and the rendered configuration."""
        deepspeed = _import_deepspeed(self._settings.device)
        config = str(self._settings.deepspeed)
        precision = self._settings.precision
        if precision in AUTOCAST:  # inside the forward pass, since DeepSpeed disables an autocast around it
            model.forward = autocast(self._settings.device, precision)(model.forward)
        groups = parameter_groups(model.named_parameters(), optimizer, options)  # before DeepSpeed flattens them
        _read_slices(deepspeed, stored, config, self._settings.device)
        for buffer in model.buffers():  # DeepSpeed broadcasts only parameters, and moves nothing else in stage 3
            buffer.data = buffer.data.to(self._settings.device)
            dist.broadcast(buffer, src=0)
        self._model = model.train()
        self._engine: Any = deepspeed.initialize(
            model=model,
            optimizer=make_optimizer(groups, optimizer),
            config=config,
            dist_init_required=False,
        )[0]
        self._zero: Any = self._engine.optimizer
        self._zero.optimizer.register_step_pre_hook(self._update_begins)
        self._apply_scale()

    def accumulate(self, batch: Batch, scale: float, last: bool) -> Losses:
        """Forward and backward. ZeRO divides the gradients' sum by the data-parallel size, which is undone here."""
        self._engine.set_gradient_accumulation_boundary(last)
        losses: Losses = self._engine(batch.to(self._settings.device))
        self._engine.backward(losses.weighted.sum() * (scale * self._settings.mesh.data_size), scale_wrt_gas=False)
        return losses

    def step(self, lr: float, discard: bool = False, before_update: Callable[[], None] = nothing) -> float:
        """DeepSpeed clips, updates and zeroes; it only zeroes if the norm is NaN or infinite."""
        set_rate(self._zero.optimizer, lr)
        self._before_update = before_update
        with self._norm_not_finite() if discard else nullcontext():
            self._engine.step()
        norm = float(self._engine.get_global_grad_norm())
        if self._scale is not None:
            self._scale.update(isfinite(norm))
            self._apply_scale()
        return norm

    def local_parameters(self) -> Sequence[LocalParameter]:
        """The parameters' fragments in the shards that the optimizer updates."""
        shapes, groups = self._shapes(), dict(self._stepped())
        return [
            LocalParameter(name, place.of(place.flat.detach(), shapes[name]), groups[place.flat])
            for name, place in self._places().items()
        ]

    def refresh(self) -> None:
        """Copy the weights that the optimizer updates to those that the module computes with."""
        if not self._sharded:
            self._zero.update_lp_params()
            return
        self._slice_everything()
        parameters: dict[str, Any] = dict(self._model.named_parameters())
        for name, place in self._places().items():
            part = place.of(place.flat.data, parameters[name].ds_shape)
            _slice(parameters[name]).local.copy_(part.local)

    def swap_result(self) -> None:
        """Nothing to do: every optimizer supported with DeepSpeed updates the weights of its result."""

    def state(self) -> StateDict:
        """Whole weights in stages 1 and 2, this rank's shards in stage 3; in all stages its shards of the moments."""
        weights: dict[str, LocalTensor] = dict(saved_tensors(self._model))
        if self._sharded:
            weights |= {name: _slice(parameter) for name, parameter in self._model.named_parameters()}
        shapes = self._shapes()
        moments: dict[str, dict[str, LocalTensor]] = {}
        learning: dict[str, LocalTensor] = {}
        for flat, places in self._places_by_flat().items():
            held, slots = self._read(flat)
            for name, place in places.items():
                learning[name] = place.of(held, shapes[name])
                if slots:  # counters need no conversion
                    moments[name] = {
                        slot: place.of(value, shapes[name]) if value.shape == held.shape else value
                        for slot, value in slots.items()
                    }
        scaler: dict[str, LocalTensor] = {} if self._scale is None else dict(self._scale.state())
        return {"model": weights, "learning": learning, "optimizer": moments, "scaler": scaler}

    def load(self, state: StateDict) -> None:
        """Load a saved state, including the fp32 copies that the optimizer updates."""
        self._load_weights(state["model"])
        for flat, places in self._places_by_flat().items():
            with self._in_memory(flat):
                for name, place in places.items():
                    self._load_slots(place, state["optimizer"].get(name, {}))
        if self._scale is not None and state["scaler"]:
            self._scale.load({slot: value for slot, value in state["scaler"].items() if isinstance(value, Tensor)})
            self._apply_scale()

    def full_tensors(self, wanted: Callable[[str], bool] = lambda name: True) -> Iterator[tuple[str, Tensor]]:
        """Every saved parameter and buffer; stage 3 gathers one at a time."""
        self._slice_everything()
        parameters = dict(self._model.named_parameters()) if self._sharded else {}
        deepspeed = _import_deepspeed(self._settings.device)
        for name, tensor in saved_tensors(self._model):
            if not wanted(name):
                continue
            if name not in parameters:
                yield name, tensor
                continue
            with deepspeed.zero.GatheredParameters([parameters[name]]):
                yield name, parameters[name].data

    def _update_begins(self, *_: object) -> None:
        """Call `before_update` once: DeepSpeed calls the optimizer for one group or shard after another."""
        before_update, self._before_update = self._before_update, nothing
        before_update()

    def _apply_scale(self) -> None:
        """Set DeepSpeed's loss scale: it multiplies the loss, and divides the gradients before clipping."""
        if self._scale is not None:
            self._zero.override_loss_scale(self._scale.scale)

    @contextmanager
    def _norm_not_finite(self) -> Iterator[None]:
        """Make DeepSpeed see an infinite gradient norm, the only reason for which it discards a step."""
        name = "_get_norm_groups" if self._sharded else "scaled_global_norm"
        no_number = torch.tensor(float("nan"), device=self._settings.device)
        setattr(self._zero, name, lambda: [no_number] if self._sharded else no_number)
        try:
            yield
        finally:
            delattr(self._zero, name)

    def _read(self, flat: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """A shard and its moments: the live tensors, or copies if they are offloaded to disk."""
        slots = dict(self._zero.optimizer.state.get(flat, {}))
        if not _is_on_disk(flat):
            return flat.detach(), slots
        with self._in_memory(flat):
            return flat.detach().clone(), {slot: value.clone() for slot, value in slots.items()}

    @contextmanager
    def _in_memory(self, flat: Tensor) -> Iterator[None]:
        """Load a shard that is offloaded to disk, with its moments; changes are written back at exit."""
        if not _is_on_disk(flat):
            yield
            return
        group = next(number for number, one in enumerate(self._zero.fp32_partitioned_groups_flat) if one is flat)
        self._zero._optimizer_states_and_gradient_swap_in(group)
        try:
            yield
        finally:
            self._zero._optimizer_states_and_gradient_swap_out(group)

    def _load_slots(self, place: FragmentLocation, slots: Mapping[str, LocalTensor]) -> None:
        """Load the moments of one parameter."""
        for slot, value in slots.items():
            held = self._zero.optimizer.state[place.flat]
            if isinstance(value, FlatSlice):
                flat = held.setdefault(slot, torch.zeros_like(place.flat))
                flat.narrow(0, place.offset, place.count).copy_(value.local)
            else:
                held[slot] = value.clone()

    def _load_weights(self, weights: dict[str, LocalTensor]) -> None:
        if not self._sharded:
            load_saved(self._model, weights)
            self._zero.refresh_fp32_params()
            return
        self._slice_everything()
        parameters: dict[str, Any] = dict(self._model.named_parameters())
        self._model.load_state_dict({name: w for name, w in weights.items() if name not in parameters}, strict=False)
        for name, parameter in parameters.items():
            if name not in weights:
                assert not parameter.requires_grad, f"the saved state lacks {name}"
                continue
            saved = weights[name]
            assert isinstance(saved, FlatSlice)
            _slice(parameter).local.copy_(saved.local)
        for flat, places in self._places_by_flat().items():
            with self._in_memory(flat):
                for name, place in places.items():
                    place.of(flat.data, parameters[name].ds_shape).local.copy_(_slice(parameters[name]).local)

    def _stepped(self) -> list[tuple[Tensor, dict[str, Any]]]:
        """Each flat shard that the optimizer updates, with its group; stage 3 splits a group into several."""
        groups = self._zero.optimizer.param_groups
        if not self._sharded:
            return list(zip(self._zero.single_partition_of_fp32_groups, groups, strict=True))
        owners = self._zero.sub_group_to_group_id
        return [(flat, groups[owners[number]]) for number, flat in enumerate(self._zero.fp32_partitioned_groups_flat)]

    def _slice_everything(self) -> None:
        """Release gathered parameters in stage 3; each is gathered again when it is next used.

        After a pass over the model DeepSpeed still has prefetched parameters in flight, and keeps those whole that it
        calls persistent.
        """
        if self._sharded:
            self._zero.empty_partition_cache()

    def _shapes(self) -> dict[str, torch.Size]:
        return {name: getattr(p, "ds_shape", p.shape) for name, p in self._model.named_parameters()}

    def _places(self) -> dict[str, FragmentLocation]:
        """The location of each parameter fragment that this rank updates."""
        found: dict[str, FragmentLocation] = {}
        for name, parameter in self._model.named_parameters():
            if not parameter.requires_grad:
                continue
            place = self._place_in_stage_3(parameter) if self._sharded else self._place_in_stages_1_and_2(parameter)
            if place is not None and place.count > 0:
                found[name] = place
        return found

    def _places_by_flat(self) -> dict[Tensor, dict[str, FragmentLocation]]:
        found: dict[Tensor, dict[str, FragmentLocation]] = {}
        for name, place in self._places().items():
            found.setdefault(place.flat, {})[name] = place
        return found

    def _place_in_stages_1_and_2(self, parameter: Any) -> FragmentLocation | None:
        mapping = parameter._hp_mapping
        if mapping is None:
            return None
        flat = self._zero.single_partition_of_fp32_groups[mapping.param_group_index]
        in_flat, in_parameter = mapping.hp_fragment_address, mapping.lp_fragment_address
        return FragmentLocation(flat, in_flat.start, in_parameter.start, in_parameter.numel)

    def _place_in_stage_3(self, parameter: Any) -> FragmentLocation:
        group, offset, _ = self._zero.grad_position[self._zero.get_param_id(parameter)]
        part = _slice(parameter)
        return FragmentLocation(self._zero.fp32_partitioned_groups_flat[group], offset, part.start, part.local.numel())


def _read_slices(deepspeed: Any, stored: LazyTensors, config: str, device: torch.device) -> None:
    """Shard the parameters on the meta device one at a time, then read this rank's shards from the files.

    DeepSpeed needs a whole tensor to shard. All parameters share one buffer for it.
    """
    room = torch.empty(max((parameter.numel() for parameter in stored), default=0), device=device)
    for parameter, tensor in stored.items():
        whole = room.narrow(0, 0, parameter.numel()).view(parameter.shape)
        torch.utils.swap_tensors(parameter, nn.Parameter(whole, parameter.requires_grad))
        deepspeed.zero.Init(module=nn.ParameterList([parameter]), config_dict_or_path=config, dtype=torch.float32)
        part = _slice(parameter)
        part.local.copy_(tensor.elements(part.start, part.start + part.local.numel()))


def _is_on_disk(flat: Tensor) -> bool:
    """Whether this is DeepSpeed's placeholder for a shard that is offloaded to disk."""
    return flat.numel() == 0


def _slice(parameter: Any) -> FlatSlice:
    """This rank's stage 3 shard of a parameter, without the padding that makes all shards equal."""
    held = parameter.ds_tensor
    size = held.ds_numel
    start = min(process_rank() * size, parameter.ds_numel)
    return FlatSlice(held.data.narrow(0, 0, min(size, parameter.ds_numel - start)), parameter.ds_shape, start)


def _import_deepspeed(device: torch.device) -> Any:
    """Import DeepSpeed for this device, without compiling an unused operation, which takes minutes."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("LOCAL_RANK", str(device.index or 0))  # as torchrun does, and srun does not
    import deepspeed
    from deepspeed import ops

    ops.__compatible_ops__["deepspeed_shm_comm"] = False  # a shared-memory all-reduce for CPUs, compiled at first use
    return deepspeed
