"""Only the biases learn, and the head (BitFit; Ben Zaken et al. 2021, arXiv:2106.10199)."""

from __future__ import annotations

from launcher.adapt.adapters.adapters import AdapterContext, Adapters, modules_that_learn
from launcher.job.sections.adapters import Biases
from launcher.models.weights.loading import Loaded


def train_biases(spec: Biases, loaded: Loaded, setting: AdapterContext) -> Adapters:
    """Freeze all else; nothing is added, so the result is a whole model."""
    whole = tuple(f"{module}." for module in modules_that_learn(loaded))
    counts = {True: 0, False: 0}
    for name, parameter in loaded.model.named_parameters():
        parameter.requires_grad_(spec.trains(name) or name.startswith(whole))
        counts[parameter.requires_grad] += parameter.numel()
    return Adapters(config=None, base=loaded.identity, learning=counts[True], parameters=sum(counts.values()))
