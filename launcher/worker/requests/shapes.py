"""Prints the shape of each parameter of a config's model: `python -m launcher.worker.requests.shapes FOLDER CLASS`.

The model is built on the meta device, so that nothing of it takes memory.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def parameter_shapes(folder: str, auto_class: str) -> dict[str, tuple[int, ...]]:
    """Shapes by name; tied parameters count once.

    auto_class: of `transformers`, such as AutoModel
    Raises ValueError or OSError for a config that `transformers` does not know, or that names code; none is run.
    """
    import torch
    import transformers

    from launcher.models.weights.loading import kernel_of

    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if kernel := kernel_of(config):
        raise ValueError(f"{kernel} is code of the hub")
    made: Any = getattr(transformers, auto_class)
    with torch.device("meta"):
        model = made.from_config(config, trust_remote_code=False)
    model.tie_weights()
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


if __name__ == "__main__":
    json.dump(parameter_shapes(*sys.argv[1:]), sys.stdout)
