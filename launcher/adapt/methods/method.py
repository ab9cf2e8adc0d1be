"""The interface of methods that train on several sets. Nothing here depends on ranks, engines or micro-batches.

The loss of a step is a sum of terms and of one loss over the whole batch:

    Σ_terms coefficient · Σᵢ lossᵢ / Σᵢ weightᵢ   +   batch_loss(what was observed of every sample)

A term is a weighted mean over samples. `weights` returns the weights of the samples before the forward pass, `terms`
returns weight × loss of each sample in the forward pass, and the sum of weights is that of the whole global batch. So a
term does not depend on how the batch is split.

A loss that is not a mean over samples (of a covariance, a kernel, the entropy of a mean) is exact too. If a method
`observes` features, logits or losses, each micro-batch is first computed without gradients, and the observations of all
samples of the global batch are gathered. `batch_loss` computes one loss from them in float64. The second, ordinary pass
propagates its gradient with respect to each sample's features into the model (gradient caching; Gao et al. 2021,
"Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup"). It costs one more forward pass, no
collective inside autograd, and the memory of one micro-batch. Dropout masks are the same in both passes.
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
"""Set numbers of the unlabelled target, and of filler rows, which are not samples."""


@dataclass(frozen=True)
class StepInfo:
    """The position in a run.

    step: optimizer steps done; total: steps of the whole run
    pretraining: how many of them come before the supervised ones
    epoch: number of the current epoch, from 0
    """

    step: int
    total: int
    epoch: int = 0
    pretraining: int = 0

    @property
    def part(self) -> float:
        """The fraction of the run that is done, from 0 to 1."""
        return self.step / self.total


@dataclass(frozen=True)
class StepBatch(Batch):
    """A micro-batch whose samples may come from several sets. The weights of samples without a label are zero.

    sets: [samples] number of the training set of each, or TARGET, or FILLER
    places: [samples] position of each in the global batch, -1 for filler
    extra: what `Method.collate` adds, each [samples, …]
    wanted: what to observe, in a pass without gradients that computes nothing else
    scales: factors of weight × loss of each sample in each term, [samples] each
    gradients: of the batch loss with respect to the observations, [samples, …] each
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
        """[samples] weight of each sample in the task's loss, summed over tokens."""
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
    """The results of a forward pass over a micro-batch, with gradient.

    losses: [samples] weight × loss of the task
    logits: [samples, outputs] outputs of the head
    features: [samples, width] inputs of the head
    hidden: [samples, length, width] the last hidden states; for images [samples, …] as the model returns them
    """

    losses: Tensor
    logits: Tensor
    features: Tensor
    hidden: Tensor


@dataclass(frozen=True)
class ObservedLosses(Losses):
    """Losses, and the observations of each sample in the first pass."""

    observed: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class BatchObservations:
    """The observations of all samples of a global batch, from all ranks, in the order of the batch.

    values: float64 [samples, …] for each name in `Method.observes`
    sets: [samples] as in `StepBatch`
    weights: [samples] weight of each sample in the task's loss
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
    """The dimensions of the model that a method's modules are made for.

    features: width of the head's input; outputs: width of its output
    language_head: loads the pretrained language model head, given the name of a `transformers` class
    """

    features: int
    outputs: int
    language_head: Callable[[str], nn.Module]


@dataclass(frozen=True)
class TargetInference:
    """Inference with the current model on all target samples; each sample is computed by one rank.

    samples: number of target samples
    look: this rank's batches: sample numbers, features and logits [samples, …], on the CPU; computed at each call
    add_up: sums a tensor over the ranks
    """

    samples: int
    look: Callable[[], Iterator[tuple[Tensor, Tensor, Tensor]]]
    add_up: Callable[[Tensor], Tensor]


class Method:
    """A method of adaptation. A subclass overrides what it needs; the defaults are plain fine-tuning.

    spec: the job's `adapt` section
    task: the task family, with labels and processor
    sets: number of samples of each training set, by its name
    target: number of target samples
    state: values kept from step to step, as plain values; saved with each checkpoint
    """

    loss_terms: ClassVar[tuple[str, ...]] = ("task",)
    """Names of the terms."""
    observes: ClassVar[tuple[str, ...]] = ()
    """The observations for `batch_loss` and `sample_factors`: any of `features`, `logits`, `losses`."""

    def __init__(self, spec: Any, task: Task, sets: Mapping[str, int], target: int) -> None:
        self.spec, self.task, self.sets, self.target = spec, task, dict(sets), target
        self.state: dict[str, Any] = {}

    def extra_modules(self, around: ModelDims) -> nn.Module | None:
        """Modules that are trained with the model and are not part of the result, such as a discriminator."""
        return None

    def learning_rate_factors(self, parts: Any) -> dict[str, float]:
        """Factors of the learning rates of the parameters of `parts`, by name; 1 for parameters without one."""
        return {}

    def is_trainable(self, name: str, module: nn.Module, is_head: bool) -> bool:
        """Whether a parameter of the model is trained, by its name and its module."""
        return True

    def begin_epoch(self, epoch: int, target: TargetInference) -> str | None:
        """Run inference on the target before an epoch and update `state`; returns a note for the user."""
        return None

    def collate(
        self, examples: Sequence[Example], ids: Sequence[int], sets: Sequence[int], moment: StepInfo
    ) -> tuple[Batch, dict[str, Tensor]]:
        """Samples of any sets as one batch, and further tensors [samples, …] that `terms` needs."""
        return self.task.collate(examples, ids, moment.epoch), {}

    def weights(self, batch: StepBatch) -> dict[str, Tensor]:
        """[samples] weight of each sample in each term."""
        return {"task": batch.sample_weights}

    def coefficients(self, moment: StepInfo) -> dict[str, float]:
        """Coefficient of each term; 1 for terms without one."""
        return {}

    def terms(self, seen: ForwardOutputs, parts: Any, batch: StepBatch) -> dict[str, Tensor]:
        """[samples] weight × loss of each sample in each term."""
        return {"task": seen.losses}

    def batch_loss(self, found: BatchObservations) -> Tensor | None:
        """One loss of all samples of the global batch, differentiable with respect to `found.values`."""
        return None

    def sample_factors(self, found: BatchObservations) -> dict[str, Tensor]:
        """[samples] for a term whose weights depend on observations: the factor of each sample's unweighted loss."""
        return {}

    def has_collapsed(self) -> str | None:
        """Why training must end now; None if it need not."""
        return None
