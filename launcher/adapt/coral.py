"""Deep CORAL (Sun and Saenko 2016, arXiv:1607.01719): ‖Cₛ − Cₜ‖² / 4d² of the covariances of d features.

Covariances are over n − 1, as in the paper. Libraries differ in what they divide by: `skada` has 4d² too, `DomainBed`
takes the mean over d² and adds the distance of the means.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from launcher.adapt.method import Found, Method
from launcher.job.methods import Coral


class CovarianceAlignment(Method):
    """The task, and equal covariances."""

    spec: Coral
    observes: ClassVar[tuple[str, ...]] = ("features",)

    def over_all(self, found: Found) -> Tensor | None:
        """Of the whole global batch; nothing where a domain has a single sample in it."""
        source, target = found.labelled("features"), found.target("features")
        if min(len(source), len(target)) < 2:
            return None
        return self.spec.weight * coral(source, target)


def coral(source: Tensor, target: Tensor) -> Tensor:
    """Of features [samples, d] each."""
    width = source.shape[1]
    return (source.T.cov() - target.T.cov()).square().sum() / (4 * width**2)
