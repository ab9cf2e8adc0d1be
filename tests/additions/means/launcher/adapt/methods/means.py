"""Equal means of the features in both domains."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from launcher.adapt.methods.method import BatchObservations, Method
from launcher.job.sections.methods import Means


class MeanAlignment(Method):
    """The task, and equal means."""

    spec: Means
    observes: ClassVar[tuple[str, ...]] = ("features",)

    def batch_loss(self, found: BatchObservations) -> Tensor:
        """Of the whole global batch."""
        apart = found.labelled("features").mean(0) - found.target("features").mean(0)
        return self.spec.weight * apart.square().sum()
