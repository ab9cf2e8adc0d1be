"""The methods of `adapt`, a section each: fine-tuning, then those that learn from more than one domain.

What each of the latter computes, with its source, is in the file of its name in `launcher/adapt/methods/`.
docs/guides/domains.md compares them. What a method sees and needs, its class says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from launcher.job.sections.adapting import Adapting, Needs, Pretraining, Rehearsal, TargetUse
from launcher.job.sections.marks import numbers
from launcher.job.sections.section import Fraction

TargetBatch = Annotated[
    Literal["auto"] | PositiveInt,
    numbers(
        description="Target samples in each step, in addition to the `train.global_batch_size`. auto: the same number.",
    ),
]
Share = Annotated[float, Field(gt=0.0, lt=1.0)]


REHEARSAL = "rehearsal"
"""Name of its samples alongside the training sets."""


class Finetune(Adapting):
    """The task's loss, with all weights that are not frozen or with `adapters`."""

    is_plain: ClassVar[bool] = True

    method: Literal["finetune"] = numbers("finetune", description="Minimise the task's loss on the labelled samples.")
    rehearsal: Rehearsal | None = numbers(
        None, description="Rehearsal: train on labelled samples of an earlier domain too, against forgetting."
    )

    @property
    def rehearsed(self) -> Rehearsal | None:
        """Those of the job."""
        return self.rehearsal

    @property
    def asks_model(self) -> bool:
        """Every model has weights."""
        return False


class Dapt(Adapting):
    """Continued pre-training on the target's texts, then supervised training (DAPT/TAPT; Gururangan et al. 2020)."""

    target: ClassVar[TargetUse] = "first"
    needs: ClassVar[Needs] = "language"

    method: Literal["dapt"] = numbers(
        description="Continued pre-training on the unlabelled target, then supervised training on the "
        "labelled samples; two phases of one run."
    )
    objective: Literal["auto", "masked", "causal"] = numbers(
        "auto",
        description="masked: predict masked words. causal: predict the next word. auto: masked if the "
        "tokenizer has a mask token.",
    )
    epochs: PositiveInt = numbers(1, description="Passes over the target before the supervised training.")
    max_steps: PositiveInt | None = numbers(None, description="End the first phase after this many steps, if sooner.")
    lr: PositiveFloat | None = numbers(
        None, description="Peak learning rate of the first phase; absent: `train.optimizer.lr`."
    )
    mask_share: Share = numbers(0.15, description="masked: share of the words that are masked.")

    @property
    def pretraining(self) -> Pretraining:
        """On the target's texts."""
        return Pretraining(self.epochs, self.max_steps, self.lr)


class Udalm(Adapting):
    """The task on the source and hidden words on the target, at once (UDALM; Karouzos et al. 2021)."""

    target: ClassVar[TargetUse] = "alongside"
    needs: ClassVar[Needs] = "language"

    method: Literal["udalm"] = numbers(
        description="Minimise λ·(loss on the source) + (1 − λ)·(loss of masked words on the target)."
    )
    source_share: Literal["auto"] | Share = numbers(
        "auto", description="λ. auto: the source's share of all samples, as in the paper."
    )
    target_batch_size: TargetBatch = "auto"
    mask_share: Share = numbers(0.15, description="Share of the words that are masked.")


class Dann(Adapting):
    """Features from which nobody can tell the domain (DANN; Ganin et al. 2016)."""

    target: ClassVar[TargetUse] = "alongside"
    needs: ClassVar[Needs] = "features"

    method: Literal["dann"] = numbers(
        description="A discriminator learns to distinguish the domains; gradient reversal makes the "
        "features domain-invariant."
    )
    weight: PositiveFloat = numbers(0.03, description="Weight of the discriminator's loss.")
    gamma: PositiveFloat = numbers(
        10.0, description="How fast the reversal sets in: 2 / (1 + exp(−gamma · step / steps)) − 1."
    )
    hidden: PositiveInt = numbers(256, description="Width of the discriminator's hidden layer.")
    discriminator_lr_factor: PositiveFloat = numbers(10.0, description="Factor of the discriminator's learning rate.")
    target_batch_size: TargetBatch = "auto"


class Cdan(Adapting):
    """As DANN, on the features together with what is predicted from them (CDAN+E; Long et al. 2018)."""

    target: ClassVar[TargetUse] = "alongside"
    needs: ClassVar[Needs] = "classes"

    method: Literal["cdan"] = numbers(
        description="The discriminator sees the outer product of features and class probabilities."
    )
    weight: PositiveFloat = numbers(0.03, description="Weight of the discriminator's loss.")
    gamma: PositiveFloat = numbers(
        10.0, description="How fast the reversal sets in: 2 / (1 + exp(−gamma · step / steps)) − 1."
    )
    hidden: PositiveInt = numbers(256, description="Width of the discriminator's hidden layer.")
    discriminator_lr_factor: PositiveFloat = numbers(10.0, description="Factor of the discriminator's learning rate.")
    entropy: bool = numbers(True, description="Weight samples by the confidence of their prediction (the +E).")
    target_batch_size: TargetBatch = "auto"


class Coral(Adapting):
    """Equal covariances of the features in both domains (Deep CORAL; Sun and Saenko 2016)."""

    target: ClassVar[TargetUse] = "alongside"
    needs: ClassVar[Needs] = "features"

    method: Literal["coral"] = numbers(
        description="Add ‖Cₛ − Cₜ‖² / (‖Cₛ‖² + ‖Cₜ‖²), from 0 to 1: how far apart the covariances of source and target "
        "features are."
    )
    weight: PositiveFloat = numbers(0.3, description="Weight of this loss.")
    target_batch_size: TargetBatch = "auto"


class Mmd(Adapting):
    """Equal distributions of the features in both domains (maximum mean discrepancy; Long et al. 2015)."""

    target: ClassVar[TargetUse] = "alongside"
    needs: ClassVar[Needs] = "features"

    method: Literal["mmd"] = numbers(
        description="Add the unbiased estimate of the squared MMD under a mean of Gaussian kernels."
    )
    weight: PositiveFloat = numbers(1.0, description="Weight of this loss.")
    bandwidths: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = numbers(
        (0.25, 0.5, 1.0, 2.0, 4.0),
        description="2σ² of each kernel, in units of the mean squared distance of two samples of the step.",
    )
    target_batch_size: TargetBatch = "auto"


class Mcc(Adapting):
    """Little confusion between classes on the target (minimum class confusion; Jin et al. 2020)."""

    target: ClassVar[TargetUse] = "alongside"
    needs: ClassVar[Needs] = "classes"

    method: Literal["mcc"] = numbers(
        description="Add the share of class probability that the target's classes exchange."
    )
    weight: PositiveFloat = numbers(1.0, description="Weight of this loss.")
    temperature: PositiveFloat = numbers(2.5, description="Softmax temperature: what the scores are divided by.")
    target_batch_size: TargetBatch = "auto"


class SelfTraining(Adapting):
    """Learns what it predicts with confidence on the target (Lee 2013; class balance as in Zou et al. 2018)."""

    target: ClassVar[TargetUse] = "alongside"
    needs: ClassVar[Needs] = "classes"

    method: Literal["self-training"] = numbers(
        description="From the second epoch on, train on the target's pseudo-labels where the model is confident."
    )
    threshold: Fraction = numbers(0.9, description="Probability from which a prediction counts as confident.")
    class_balanced: bool = numbers(
        True,
        description="Keep the same number of pseudo-labels for each class: that of the class with the "
        "fewest confident predictions.",
    )
    after_epochs: PositiveInt = numbers(
        1, description="Epochs on the source alone before the target is first labelled."
    )
    weight: PositiveFloat = numbers(1.0, description="Weight of the loss on the target.")
    target_batch_size: TargetBatch = "auto"

    @property
    def epochs_before_target(self) -> int:
        """Those of the job."""
        return self.after_epochs


class Shot(Adapting):
    """Adapts a trained model without its source data (SHOT; Liang et al. 2020)."""

    target: ClassVar[TargetUse] = "alone"
    needs: ClassVar[Needs] = "classes"
    trains_head: ClassVar[bool] = False

    method: Literal["shot"] = numbers(
        description="The head is frozen. Features are trained for confident, class-balanced predictions, and to agree "
        "with the nearest class centre; needs no data.train."
    )
    diversity: NonNegativeFloat = numbers(1.0, description="Weight of the class-balance term.")
    pseudo_labels: NonNegativeFloat = numbers(
        0.3, description="Weight of the loss on pseudo-labels from the class centres."
    )


class Tent(Adapting):
    """Adapts the normalisation of a trained model without source data (TENT; Wang et al. 2021)."""

    target: ClassVar[TargetUse] = "alone"
    needs: ClassVar[Needs] = "classes"
    trains_head: ClassVar[bool] = False
    why_no_adapters: ClassVar[str | None] = "only scales and shifts of normalisation layers, which adapters freeze"

    method: Literal["tent"] = numbers(
        description="Only scales and shifts of normalisation layers are trained, for confident, class-balanced "
        "predictions; needs no data.train."
    )
    lr_factor: PositiveFloat = numbers(0.3, description="Factor of the learning rate.")
    diversity: NonNegativeFloat = numbers(
        1.0,
        description="Weight of the class-balance term, as in `shot`, against a model that predicts one class for "
        "everything. 0: as in the paper.",
    )
    collapse: Share = numbers(
        0.95,
        description="Training fails when one class has this share of the recent predictions: the model has collapsed.",
    )

    @property
    def lr_factor_of_all(self) -> float:
        """That of the job."""
        return self.lr_factor


class GroupDro(Adapting):
    """Learns most from the domain that it is worst at (GroupDRO; Sagawa et al. 2020)."""

    groups: ClassVar[bool] = True

    method: Literal["group-dro"] = numbers(
        description="Each set of `data.train` is a group; a group's weight grows with its loss. Needs two sets or more."
    )
    step_size: PositiveFloat = numbers(0.01, description="How fast weights grow: q ← q · exp(step_size · loss).")


class Own(Adapting):
    """A method of your own (docs/extending/method.md)."""

    target: ClassVar[TargetUse] = "where given"

    method: Literal["own"] = numbers(description="A class of a file of your own.")
    code: str = numbers(description="`file.py:ClassName`, relative to the job file.")
    settings: dict[str, Any] = numbers(default_factory=dict, description="Settings that your class reads.")
    target_batch_size: TargetBatch = "auto"

    @property
    def own_class(self) -> str | None:
        """That of the job."""
        return self.code


DomainMethod = Dapt | Udalm | Dann | Cdan | Coral | Mmd | Mcc | SelfTraining | Shot | Tent | GroupDro | Own
Adapt = Annotated[Finetune | DomainMethod, Field(discriminator="method")]
"""How the model moves to the domain: a section a method."""

SECTIONS: Mapping[str, type[Adapting]] = {
    get_args(section.model_fields["method"].annotation)[0]: section for section in (Finetune, *get_args(DomainMethod))
}
"""The section of each method, by the method's name."""
