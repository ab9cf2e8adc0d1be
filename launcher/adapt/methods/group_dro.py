"""Group distributionally robust optimisation (Sagawa et al. 2020, arXiv:1911.08731, algorithm 1).

Each training set is a group g. With the mean losses L_g of the groups in a step's global batch: q_g ← q_g·exp(η·L_g),
rescaled so that the sum over these groups is unchanged. The step minimises Σ q_g·L_g. A group without samples in the
batch keeps its weight.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from launcher.adapt.methods.method import BatchObservations, Method
from launcher.job.sections.methods import GroupDro


class GroupRobust(Method):
    """The largest weight for the set with the largest loss."""

    spec: GroupDro
    observes: ClassVar[tuple[str, ...]] = ("losses",)

    def sample_factors(self, found: BatchObservations) -> dict[str, Tensor]:
        """q_g divided by the group's weight in the batch, for each sample of the group."""
        groups = len(self.sets)
        held = torch.tensor(self.state.get("q") or [1 / groups] * groups, dtype=torch.float64)
        members = torch.nn.functional.one_hot(found.sets, groups).double()
        weights = found.weights @ members
        losses = (found.values["losses"] @ members) / weights.clamp(min=1e-30)
        raised = held * torch.exp(self.spec.step_size * losses)
        if torch.isfinite(raised).all():  # a step whose loss is NaN or infinite is skipped
            present = weights > 0
            held = torch.where(present, raised * (held[present].sum() / raised[present].sum()), held)
            self.state["q"] = held.tolist()
        factors = torch.where(weights > 0, held / weights.clamp(min=1e-30), 0.0)
        return {"task": members @ factors}
