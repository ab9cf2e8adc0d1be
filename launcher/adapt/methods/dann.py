"""Domain-adversarial training (Ganin et al. 2016, "Domain-Adversarial Training of Neural Networks", JMLR 17).

The discriminator's loss averages its mean over the source and its mean over the target, so that the domains have equal
weight whatever their shares of a batch.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from launcher.adapt.methods.domain_loss import Discriminator, domain_losses, reversal, reversed_gradient
from launcher.adapt.methods.method import ForwardOutputs, Method, ModelDims, StepBatch, StepInfo
from launcher.job.sections.methods import Dann


class DomainAdversarial(Method):
    """A discriminator on the features behind reversed gradients."""

    spec: Dann
    loss_terms: ClassVar[tuple[str, ...]] = ("task", "source_domain", "target_domain")

    def extra_modules(self, around: ModelDims) -> nn.Module:
        """The discriminator."""
        return Discriminator(around.features, self.spec.hidden)

    def learning_rate_factors(self, parts: Discriminator) -> dict[str, float]:
        """The factors of the discriminator."""
        return parts.learning_rate_factors(self.spec.discriminator_lr_factor)

    def weights(self, batch: StepBatch) -> dict[str, Tensor]:
        """All samples of a domain have the same weight."""
        return {"task": batch.sample_weights, "source_domain": batch.is_labelled, "target_domain": batch.is_target}

    def coefficients(self, moment: StepInfo) -> dict[str, float]:
        """One half for each domain."""
        return dict.fromkeys(("source_domain", "target_domain"), self.spec.weight / 2)

    def terms(self, seen: ForwardOutputs, parts: Discriminator, batch: StepBatch) -> dict[str, Tensor]:
        """The task's loss and the discriminator's."""
        features = reversed_gradient(seen.features, reversal(batch.moment.part, self.spec.gamma))
        return {"task": seen.losses, **domain_losses(parts(features), batch)}
