"""Maximum mean discrepancy of the features (Gretton et al. 2012, JMLR 13; in networks: Long et al. 2015).

The loss is the unbiased estimate of MMD² under a mean of Gaussian kernels exp(−‖x − y‖² / b·m). m is the mean squared
distance between samples of the step, detached; b are the bandwidths of the job.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from launcher.adapt.methods.method import BatchObservations, Method
from launcher.job.sections.methods import Mmd


class DiscrepancyAlignment(Method):
    """The task's loss, and equal feature distributions of the two domains."""

    spec: Mmd
    observes: ClassVar[tuple[str, ...]] = ("features",)

    def batch_loss(self, found: BatchObservations) -> Tensor | None:
        """MMD² over the whole global batch; None if a domain has a single sample in it."""
        source, target = found.labelled("features"), found.target("features")
        if min(len(source), len(target)) < 2:
            return None
        return self.spec.weight * squared_mmd(source, target, self.spec.bandwidths)


def squared_mmd(source: Tensor, target: Tensor, bandwidths: Sequence[float]) -> Tensor:
    """The unbiased estimate from features [samples, d] each; it may be slightly negative."""
    both = torch.cat([source, target])
    distances = squared_distances(both)
    count, total = len(source), len(both)
    mean = distances.detach().sum() / (total * (total - 1))
    kernel = torch.stack([torch.exp(-distances / (width * mean)) for width in bandwidths]).mean(0)
    kernel = kernel - torch.diag(kernel.diagonal())
    other = total - count
    within = kernel[:count, :count].sum() / (count * (count - 1)) + kernel[count:, count:].sum() / (other * (other - 1))
    return within - 2 * kernel[:count, count:].mean()


def squared_distances(rows: Tensor) -> Tensor:
    """[samples, samples] squared, since the square root has an infinite gradient at zero."""
    squares = rows.square().sum(1)
    distances = squares.unsqueeze(0) + squares.unsqueeze(1) - 2 * rows @ rows.T
    return distances.clamp(min=0)
