"""Deep CORAL (Sun and Saenko 2016, arXiv:1607.01719), with a distance that does not depend on feature scale or width.

The distance is ‖Cₛ − Cₜ‖² / (‖Cₛ‖² + ‖Cₜ‖²), covariances over n − 1: 0 if they are equal, and never above 1. The paper
divides by 4d² for d features. Its distance grows with the fourth power of the features' scale and falls with their
effective dimension: a weight of 1 has no effect on features of a tanh, and a strong one on those of a decoder. Here a
weight means the same for all models.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from launcher.adapt.methods.method import BatchObservations, Method
from launcher.job.sections.methods import Coral


class CovarianceAlignment(Method):
    """The task's loss, and equal covariances of the two domains."""

    spec: Coral
    observes: ClassVar[tuple[str, ...]] = ("features",)

    def batch_loss(self, found: BatchObservations) -> Tensor | None:
        """The distance over the whole global batch; None if a domain has a single sample in it."""
        source, target = found.labelled("features"), found.target("features")
        if min(len(source), len(target)) < 2:
            return None
        return self.spec.weight * covariance_distance(source, target)


def covariance_distance(source: Tensor, target: Tensor) -> Tensor:
    """The distance of features [samples, d] each; zero if neither domain varies."""
    of_source, of_target = source.T.cov(), target.T.cov()
    size = of_source.square().sum() + of_target.square().sum()
    return (of_source - of_target).square().sum() / size.clamp(min=torch.finfo(size.dtype).tiny)
