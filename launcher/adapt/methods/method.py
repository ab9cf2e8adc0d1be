"""What a method that learns from several sets supplies; nothing here knows of ranks, engines or micro-batches.

The loss of a step is a sum of terms and of one loss over everything:

    Σ_terms coefficient · Σᵢ lossᵢ / Σᵢ weightᵢ   +   batch_loss(what was observed of every sample)

A term is a mean over samples: `weights` says before the forward pass how much each sample counts in it, `terms` gives
weight × loss of each sample in the forward pass, and the sum of weights is that of the whole global batch. So a term is
the same however the batch is split.

What is no mean over samples (a covariance, a kernel, an entropy of a mean) is exact too: where a method `observes`
features, logits or losses, each micro-batch is first computed without gradients, and what was observed of all samples
of the global batch is put together. `batch_loss` makes one loss of it in float64. Its gradient with respect to each
sample's features is then what the second, ordinary pass propagates back into the model (gradient caching; Gao et al.
2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup"). It costs one more forward pass, no
collective inside autograd, and the memory of one micro-batch. Dropout is drawn alike in both passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from launcher.models.parts.batch import Batch, Losses
from launcher.models.tasks.base import Example, Task

TARGET, FILLER = -1, -2
"""Numbers that stand for the unlabelled target, and for a row that is no sample, where a set is told by its number."""


@dataclass(frozen=True)
class StepInfo:
    """Where a run is.

    step: optimizer steps done; total: of the whole run
    pretraining: how many of them come before the supervised ones
    epoch: passes begun over what is drawn, from 0
    """

    step: int
    total: int
    epoch: int = 0
    pretraining: int = 0

    @property
    def part(self) -> float:
        """How much of the run is done, from 0 to 1."""
        return self.step / self.total


@dataclass(frozen=True)
class StepBatch(Batch):
    """A micro-batch whose samples may be of several sets. Weights are zero for all that has no label.

    sets: [samples] number of the training set of each, or TARGET, or FILLER
    places: [samples] position of each in the global batch, -1 for filler
    extra: what `Method.collate` adds, each [samples, …]
    wanted: what is to be observed, in a pass without gradients that looks at nothing else
    scales: what weight × loss of each sample is multiplied by in each term, [samples] each
    gradients: of the loss over everything with respect to what was observed, [samples, …] each
    """

    sets: Tensor
    places: Tensor
    moment: StepInfo
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    wanted: tuple[str, ...] = ()
    scales: Mapping[str, Tensor] = field(default_factory=dict)
    gradients: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def is_target(self) -> Tensor:
        """[samples] 1.0 for samples of the target, else 0.0."""
        return (self.sets == TARGET).float()

    @property
    def is_labelled(self) -> Tensor:
        """[samples] 1.0 for samples of a training set, else 0.0."""
        return (self.sets >= 0).float()

    @property
    def sample_weights(self) -> Tensor:
        """[samples] what the task's loss of each sample weighs, tokens added up."""
        return self.weights.flatten(1).sum(1) if self.weights.ndim > 1 else self.weights

    def to(self, device: torch.device) -> StepBatch:
        """The same batch on `device`."""
        if self.ids.device == device:
            return self

        def moved(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.to(device, non_blocking=True) for name, tensor in named.items()}

        plain = super().to(device)
        assert isinstance(plain, StepBatch)
        return replace(
            plain,
            sets=self.sets.to(device),
            places=self.places.to(device),
            extra=moved(self.extra),
            scales=moved(self.scales),
            gradients=moved(self.gradients),
        )


@dataclass(frozen=True)
class ForwardOutputs:
    """What a forward pass over a micro-batch gives a method, with gradient.

    losses: [samples] weight × loss of the task
    logits: [samples, outputs] what the head gives
    features: [samples, width] what the head sees
    hidden: [samples, length, width] the last hidden states; of images [samples, …] whatever the model gives
    """

    losses: Tensor
    logits: Tensor
    features: Tensor
    hidden: Tensor


@dataclass(frozen=True)
class Observed(Losses):
    """Losses, and what is observed of each sample in the first pass."""

    observed: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class BatchObservations:
    """What was observed of every sample of a global batch, in the order of the batch, whoever computed it.

    values: float64 [samples, …] of each name in `Method.observes`
    sets: [samples] as in `StepBatch`
    weights: [samples] what the task's loss of each weighs
    """

    values: Mapping[str, Tensor]
    sets: Tensor
    weights: Tensor
    moment: StepInfo

    def labelled(self, name: str) -> Tensor:
        """The rows of training samples."""
        return self.values[name][self.sets >= 0]

    def target(self, name: str) -> Tensor:
        """The rows of target samples."""
        return self.values[name][self.sets == TARGET]


@dataclass(frozen=True)
class ModelDims:
    """What the parts of a method are made for.

    features: width of what the head sees; outputs: of what it gives
    language_head: the pretrained model's own head that tells words, by the name of the `transformers` class that has it
    """

    features: int
    outputs: int
    language_head: Callable[[str], nn.Module]


@dataclass(frozen=True)
class TargetInference:
    """The model as it is, on all target samples; each is looked at by one of those who look.

    samples: how many there are
    look: the samples of each batch, with features and logits [samples, …], on the CPU; anew at each call
    add_up: a tensor's sum over all who look
    """

    samples: int
    look: Callable[[], Iterator[tuple[Tensor, Tensor, Tensor]]]
    add_up: Callable[[Tensor], Tensor]


class Method:
    """How a step learns. A subclass overrides what it needs; all defaults together are plain fine-tuning.

    spec: the job's `adapt` section
    task: the task family, with labels and processor
    sets: how many samples each training set has, by its name
    target: how many the target has
    state: what must be remembered from step to step, as plain values; it is saved with each checkpoint
    """

    loss_terms: ClassVar[tuple[str, ...]] = ("task",)
    """Names of the terms."""
    observes: ClassVar[tuple[str, ...]] = ()
    """What `batch_loss` and `sample_factors` are given: any of `features`, `logits`, `losses`."""

    def __init__(self, spec: Any, task: Task, sets: Mapping[str, int], target: int) -> None:
        self.spec, self.task, self.sets, self.target = spec, task, dict(sets), target
        self.state: dict[str, Any] = {}

    def extra_modules(self, around: ModelDims) -> nn.Module | None:
        """What learns beside the model and is not in the result, such as a discriminator."""
        return None

    def learning_rate_factors(self, parts: Any) -> dict[str, float]:
        """What the learning rate of each parameter of `parts` is multiplied by, by its name; 1 where none is given."""
        return {}

    def is_trainable(self, name: str, module: nn.Module, is_head: bool) -> bool:
        """Whether a parameter of the model learns, by its name and the module that holds it."""
        return True

    def begin_epoch(self, epoch: int, target: TargetInference) -> str | None:
        """Look at the target before an epoch; what is found goes into `state`, and a note for the user is returned."""
        return None

    def collate(
        self, examples: Sequence[Example], ids: Sequence[int], sets: Sequence[int], moment: StepInfo
    ) -> tuple[Batch, dict[str, Tensor]]:
        """Samples of any sets as one batch, and what `terms` needs beside it, a tensor [samples, …] each."""
        return self.task.collate(examples, ids, moment.epoch), {}

    def weights(self, batch: StepBatch) -> dict[str, Tensor]:
        """[samples] how much each sample counts in each term."""
        return {"task": batch.sample_weights}

    def coefficients(self, moment: StepInfo) -> dict[str, float]:
        """What each term is multiplied by; 1 where none is given."""
        return {}

    def terms(self, seen: ForwardOutputs, parts: Any, batch: StepBatch) -> dict[str, Tensor]:
        """[samples] weight × loss of each sample in each term."""
        return {"task": seen.losses}

    def batch_loss(self, found: BatchObservations) -> Tensor | None:
        """One loss of all samples of the global batch, differentiable with respect to `found.values`."""
        return None

    def sample_factors(self, found: BatchObservations) -> dict[str, Tensor]:
        """[samples] for a term whose weights follow from what was observed: the factor of each sample's loss itself."""
        return {}

    def has_collapsed(self) -> str | None:
        """Why training must end here; None where it need not."""
        return None
