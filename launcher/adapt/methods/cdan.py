"""Conditional adversarial domain adaptation (Long et al. 2018, arXiv:1705.10667), with entropy weights (CDAN+E).

The discriminator's input is the outer product of features and class probabilities; the probabilities are detached. A
sample's weight is 1 + exp(−H(p)), normalised within each domain over the whole global batch.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from launcher.adapt.methods.dann import DomainAdversarial
from launcher.adapt.methods.domain_loss import Discriminator, domain_losses, reversal, reversed_gradient
from launcher.adapt.methods.method import TARGET, BatchObservations, ForwardOutputs, ModelDims, StepBatch
from launcher.job.sections.methods import Cdan


class ConditionalAdversarial(DomainAdversarial):
    """A discriminator on features ⊗ probabilities behind reversed gradients."""

    spec: Cdan  # type: ignore[assignment]
    observes: ClassVar[tuple[str, ...]] = ("logits",)

    def extra_modules(self, around: ModelDims) -> nn.Module:
        """The discriminator."""
        return Discriminator(around.features, self.spec.hidden, around.outputs)

    def terms(self, seen: ForwardOutputs, parts: Discriminator, batch: StepBatch) -> dict[str, Tensor]:
        """The task's loss and the discriminator's."""
        vectors = joint(seen.features, seen.logits.detach().softmax(-1))
        logits = parts(reversed_gradient(vectors, reversal(batch.moment.part, self.spec.gamma)))
        return {"task": seen.losses, **domain_losses(logits, batch)}

    def sample_factors(self, found: BatchObservations) -> dict[str, Tensor]:
        """The entropy weights, normalised in each domain."""
        if not self.spec.entropy:
            return {}
        certainty = 1 + torch.exp(-entropy(found.values["logits"]))
        domains = {"source_domain": found.sets >= 0, "target_domain": found.sets == TARGET}
        half = self.spec.weight / 2
        return {name: half * certainty * mine / (certainty * mine).sum() for name, mine in domains.items()}


def joint(features: Tensor, probabilities: Tensor) -> Tensor:
    """[samples, classes · width]: for each class the features times its probability."""
    return (probabilities.unsqueeze(2) * features.unsqueeze(1)).flatten(1)


def entropy(logits: Tensor) -> Tensor:
    """[samples] of the class probabilities, in nats."""
    logs = logits.log_softmax(-1)
    return -(logs.exp() * logs).sum(-1)
