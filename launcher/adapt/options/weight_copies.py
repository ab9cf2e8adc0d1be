"""Copies of the local parameters, in the same layout, so that no rank needs more than its own shards.

A local parameter is a whole parameter, a shard of one, or under ZeRO a range of its elements. All operations on copies
are elementwise, and checkpoints store them like moments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from launcher.engines.base import LocalParameter, LocalTensor, cloned, local

Kept = dict[str, dict[str, LocalTensor]]
"""Copies by parameter name, then by slot, as in a checkpoint."""


def move(tensors: Sequence[torch.Tensor], ends: Sequence[torch.Tensor], share: float) -> None:
    """tensor ← (1 − share)·tensor + share·end for all tensors, with few (foreach) kernels."""
    if tensors:  # a rank may have no shards
        torch._foreach_lerp_(list(tensors), list(ends), share)


class Copies:
    """A copy of the current values of some parameters."""

    def __init__(self, parameters: Sequence[LocalParameter]) -> None:
        self.parameters = tuple(parameters)
        self._held = {parameter.name: cloned(parameter.held) for parameter in parameters}

    def __getitem__(self, parameter: LocalParameter) -> torch.Tensor:
        """This rank's shard of the copy, which may be modified."""
        return local(self._held[parameter.name])

    def of(self, parameters: Sequence[LocalParameter]) -> list[torch.Tensor]:
        """This rank's shards of the copies of some parameters."""
        return [self[parameter] for parameter in parameters]

    @torch.no_grad()
    def take(self, parameter: LocalParameter) -> None:
        """Copy the parameter's current value."""
        self[parameter].copy_(parameter.tensor)

    def saved(self, slot: str, parameters: Sequence[LocalParameter]) -> Kept:
        """The copies of some parameters for a checkpoint, sharing memory."""
        return {parameter.name: {slot: self._held[parameter.name]} for parameter in parameters}

    @torch.no_grad()
    def load(self, slot: str, kept: Mapping[str, Mapping[str, LocalTensor]]) -> None:
        """Load what `saved` returned, as far as it is present."""
        for parameter in self.parameters:
            found = kept.get(parameter.name, {}).get(slot)
            if found is not None:
                self[parameter].copy_(local(found))
