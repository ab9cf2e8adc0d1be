"""The repeated blocks of a model: the layers of a transformer, the stages of a convolutional network."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn


def repeated_blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The members of the outermost module lists with several members, in the model's order."""
    for child in module.children():
        if isinstance(child, nn.ModuleList) and len(child) > 1:
            yield from (member for member in child if any(True for _ in member.parameters()))
        else:
            yield from repeated_blocks(child)
