"""Copies of what this rank steps: laid out as that is, so that no rank needs more than its own part.

What an optimizer steps is a whole parameter, a shard of one, or under ZeRO a run of its elements. All that is done with
copies is done element by element, and checkpoints hold them as they hold moments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from launcher.engines.base import LocalParameter, LocalTensor, cloned, local

Kept = dict[str, dict[str, LocalTensor]]
"""What options keep of each parameter by the parameter's name, then by their own: its place in a checkpoint."""


def move(tensors: Sequence[torch.Tensor], ends: Sequence[torch.Tensor], share: float) -> None:
    """tensor ← (1 − share)·tensor + share·end for all at once, in the few kernels that the device allows."""
    if tensors:  # a rank may step nothing
        torch._foreach_lerp_(list(tensors), list(ends), share)


class Copies:
    """A copy of some parameters as they are now."""

    def __init__(self, parameters: Sequence[LocalParameter]) -> None:
        self.parameters = tuple(parameters)
        self._held = {parameter.name: cloned(parameter.held) for parameter in parameters}

    def __getitem__(self, parameter: LocalParameter) -> torch.Tensor:
        """This rank's part of the copy, which may be written to."""
        return local(self._held[parameter.name])

    def of(self, parameters: Sequence[LocalParameter]) -> list[torch.Tensor]:
        """This rank's parts of the copies of some of them."""
        return [self[parameter] for parameter in parameters]

    @torch.no_grad()
    def take(self, parameter: LocalParameter) -> None:
        """Copy the parameter as it is now."""
        self[parameter].copy_(parameter.tensor)

    def saved(self, slot: str, parameters: Sequence[LocalParameter]) -> Kept:
        """What a checkpoint holds of some of the parameters, sharing memory."""
        return {parameter.name: {slot: self._held[parameter.name]} for parameter in parameters}

    @torch.no_grad()
    def load(self, slot: str, kept: Mapping[str, Mapping[str, LocalTensor]]) -> None:
        """Take over what `saved` gave, as far as it is there."""
        for parameter in self.parameters:
            found = kept.get(parameter.name, {}).get(slot)
            if found is not None:
                self[parameter].copy_(local(found))
