"""The initial weights: for decay towards them in each step (L2-SP), or interpolation at the end (WiSE-FT)."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from launcher.adapt.options.weight_copies import Copies, Kept, move
from launcher.engines.base import Engine, LocalParameter, LocalTensor

SLOT = "start"
"""Its slot among the moments in a checkpoint."""


class Start:
    """A copy of the initial weights, made before any checkpoint is loaded.

    interpolates: whether `mix` will be called; if not, parameters that the pretrained model lacks are left out
    """

    def __init__(self, engine: Engine, *, interpolates: bool) -> None:
        self._engine = engine
        stepped = engine.local_parameters()
        self._pretrained = [parameter for parameter in stepped if not parameter.is_new]
        self._new = [parameter for parameter in stepped if parameter.is_new and interpolates]
        groups: dict[int, list[LocalParameter]] = {}
        for parameter in self._pretrained:
            groups.setdefault(id(parameter.group), []).append(parameter)
        self._groups = list(groups.values())
        self._start = Copies([*self._pretrained, *self._new])
        self._end: Copies | None = None

    @torch.no_grad()
    def pull(self, strength: float) -> None:
        """w ← w − lr·α·(w − w₀), with the rate of w's own group (Xuhong et al. 2018, arXiv:1802.01483)."""
        for members in self._groups:
            tensors = [parameter.tensor for parameter in members]
            move(tensors, self._start.of(members), members[0].group["lr"] * strength)

    @torch.no_grad()
    def mix(self, share: float) -> None:
        """w ← (1 − share)·start + share·end; end are the weights at the first call (arXiv:2109.01903)."""
        self._end = self._end or Copies(self._start.parameters)
        for parameter in self._start.parameters:
            torch.lerp(self._start[parameter], self._end[parameter], share, out=parameter.tensor)
        self._engine.refresh()

    def saved(self) -> Kept:
        """The state for a checkpoint: the initial values of new parameters; the others are in the pretrained model."""
        return self._start.saved(SLOT, self._new)

    def load(self, kept: Mapping[str, Mapping[str, LocalTensor]]) -> None:
        """Load a checkpoint's state: the initial values of new parameters, by default the current ones."""
        for parameter in self._new:
            self._start.take(parameter)
        self._start.load(SLOT, kept)
