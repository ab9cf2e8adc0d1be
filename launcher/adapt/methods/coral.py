"""Deep CORAL (Sun and Saenko 2016, arXiv:1607.01719), with a distance of covariances that knows no scale or width.

The distance is ‖Cₛ − Cₜ‖² / (‖Cₛ‖² + ‖Cₜ‖²), covariances over n − 1: 0 where they are equal, and never above 1. The
paper divides by 4d² for d features, so that the distance grows with the fourth power of their scale and falls with the
number of directions that they fill: a weight of 1 moves nothing in features of a tanh, and much in those of a decoder.
Here a weight means the same for all.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from launcher.adapt.methods.method import BatchObservations, Method
from launcher.job.sections.methods import Coral


class CovarianceAlignment(Method):
    """The task, and equal covariances."""

    spec: Coral
    observes: ClassVar[tuple[str, ...]] = ("features",)

    def batch_loss(self, found: BatchObservations) -> Tensor | None:
        """Of the whole global batch; nothing where a domain has a single sample in it."""
        source, target = found.labelled("features"), found.target("features")
        if min(len(source), len(target)) < 2:
            return None
        return self.spec.weight * covariance_distance(source, target)


def covariance_distance(source: Tensor, target: Tensor) -> Tensor:
    """Of features [samples, d] each; zero where neither domain varies."""
    of_source, of_target = source.T.cov(), target.T.cov()
    size = of_source.square().sum() + of_target.square().sum()
    return (of_source - of_target).square().sum() / size.clamp(min=torch.finfo(size.dtype).tiny)
