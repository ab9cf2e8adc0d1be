"""4-bit linear layers with `bitsandbytes`: NormalFloat with double quantisation, as in QLoRA.

Dettmers et al. 2023, arXiv:2305.14314. Layers are read and quantised one at a time, so the whole unquantised model is
never in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from launcher.errors import ModelError
from launcher.models.weights.stored import LazyTensors, readable


def quantise(
    model: nn.Module, names: Sequence[str], stored: LazyTensors, device: torch.device, dtype: torch.dtype
) -> None:
    """Replace the named linear layers by 4-bit layers on `device`, and read all other weights.

    stored: where weights on the meta device are stored; empty afterwards
    dtype: compute dtype of the layers
    Raises ModelError if nothing can be quantised.
    """
    linear = [name for name in names if type(model.get_submodule(name)) is nn.Linear]
    if not linear:
        raise ModelError(f"{type(model).__name__} has no plain linear layers to quantise; use quantised: false")
    for name in linear:
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        weight, bias = (None if part is None else _taken(part, stored) for part in (layer.weight, layer.bias))
        assert weight is not None
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, _in_4_bits(weight, bias, device, dtype))
    for parameter in list(stored):
        whole = nn.Parameter(_taken(parameter, stored), parameter.requires_grad)
        torch.utils.swap_tensors(parameter, whole)  # keeps tied parameters tied


def _taken(parameter: Tensor, stored: LazyTensors) -> Tensor:
    assert isinstance(parameter, nn.Parameter)
    value = readable(parameter, stored).whole()
    stored.pop(parameter, None)
    return value


def _in_4_bits(weight: Tensor, bias: Tensor | None, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """weight: [outputs, inputs]; bias: [outputs]"""
    from bitsandbytes.nn import Linear4bit, Params4bit

    outputs, inputs = weight.shape
    with torch.device("meta"):
        layer = Linear4bit(inputs, outputs, bias is not None, compute_dtype=dtype, quant_type="nf4")
    layer.weight = Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=True, module=layer)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    layer.support_avx512bf16_for_cpu = False  # weights packed for evaluation have no backward pass
    quantised: nn.Module = layer.to(device)
    return quantised
