"""The shapes of the parameters of a config's model, which is built on the meta device, without memory."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from launcher.job.requests import ShapesAnswer, ShapesRequest
from launcher.models.weights.loading import kernel_of
from launcher.worker.rank.process import RankProcess


def serve(process: RankProcess, request: ShapesRequest) -> ShapesAnswer:
    """The shapes, for the requested class of `transformers`."""
    return ShapesAnswer(shapes=parameter_shapes(request.config, request.auto_class))


def parameter_shapes(folder: str, auto_class: str) -> dict[str, tuple[int, ...]]:
    """Shapes by name; tied parameters count once.

    auto_class: of `transformers`, such as AutoModel
    Raises ValueError or OSError for a config that `transformers` does not support, or that names code; none is run.
    """
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if kernel := kernel_of(config):
        raise ValueError(f"{kernel} is code from the hub")
    made: Any = getattr(transformers, auto_class)
    with torch.device("meta"):
        model = made.from_config(config, trust_remote_code=False)
    model.tie_weights()
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
