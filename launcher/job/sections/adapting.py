"""What may be added to every method of adapting: options of `adapt` that go together unless a rule says otherwise."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from launcher.job.sections.adapters import AnyAdapters
from launcher.job.sections.data import AnySource
from launcher.job.sections.marks import numbers, section
from launcher.job.sections.section import Fraction, Section


class Probe(Section):
    """The head alone, before anything else learns (Kumar et al. 2022, arXiv:2202.10054)."""

    steps: PositiveFloat = numbers(description="A fraction of all steps below 1, a number of steps from 1 on.")
    lr: PositiveFloat | None = numbers(
        None, description="Constant learning rate of these steps; absent: `train.optimizer.lr`."
    )


class Ema(Section):
    """A moving average of the weights."""

    name: Literal["ema"] = numbers(description="Exponential moving average of the weights over steps.")
    decay: Fraction = numbers(
        0.999,
        description="Share of the old average that each step keeps; the rest is the new weights. At step "
        "t at most (1 + t) / (10 + t), so that short runs do not stay near their start.",
    )


class Swa(Section):
    """The mean of the weights at several steps (Izmailov et al. 2018, arXiv:1803.05407)."""

    name: Literal["swa"] = numbers(description="Plain mean of the weights at several steps towards the end.")
    start: Fraction = numbers(0.5, description="Share of all steps after which averaging begins.")
    every: Literal["epoch"] | PositiveInt = numbers(
        "epoch", description="Average the weights at the end of each epoch, or every this many steps."
    )


class Distill(Section):
    """Outputs that stay near those of the pretrained model (Li & Hoiem 2017, arXiv:1606.09282)."""

    weight: Annotated[float, Field(gt=0.0, le=1.0)] = numbers(
        0.5, description="Share of the distillation loss; the loss on the labels has the rest."
    )
    temperature: PositiveFloat = numbers(
        2.0,
        description="Softmax temperature: both outputs are divided by it, and the loss is multiplied by its square.",
    )


class Rehearsal(Section):
    """Labelled samples of an earlier domain, trained on with the new ones so that it is not forgotten."""

    source: AnySource = numbers(description="Labelled samples of the earlier domain, with the labels of the new one.")
    share: Annotated[float, Field(gt=0.0, lt=1.0)] = numbers(
        0.2, description="Their share of the samples that are drawn."
    )


TargetUse = Literal["none", "alongside", "first", "alone", "where given"]
"""When a method learns from `data.target`: never, in each step with labelled samples, before them, without any, or in
each step if the job has one."""
Needs = Literal["nothing", "features", "classes", "language"]
"""What a method looks at in a model: nothing more than its loss, one feature vector a sample, the probabilities of one
class a sample, or its predictions of words."""


class Pretraining(NamedTuple):
    """Steps over the target alone, before the labelled samples.

    epochs: passes over the target; max_steps: at most so many steps; lr: peak rate, None for the optimizer's
    """

    epochs: int
    max_steps: int | None
    lr: float | None


class Adapting(Section):
    """The options that every method has; a method's class says what it sees and needs."""

    is_plain: ClassVar[bool] = False
    """Whether the task's loss alone is minimised, so that every option goes with it."""
    target: ClassVar[TargetUse] = "none"
    needs: ClassVar[Needs] = "nothing"
    groups: ClassVar[bool] = False
    """Whether training sets are weighed against each other."""
    trains_head: ClassVar[bool] = True
    """Whether the head of a classifier learns."""
    why_no_adapters: ClassVar[str | None] = None
    """What the method trains, where adapters leave it nothing to train."""

    method: str = numbers(description="How the model is adapted to the domain.")
    adapters: AnyAdapters | None = section(
        None,
        description="Small trainable weights that are added to a frozen model; absent: all weights are "
        "trained, except those in `model.frozen`.",
    )
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = numbers(
        1.0,
        asks_model=True,
        description="Factor of the learning rate from each repeated layer to the one below it: the head "
        "has the full rate, the embeddings the lowest.",
    )
    lr_factors: dict[str, PositiveFloat] = numbers(
        default_factory=dict,
        asks_model=True,
        description="Patterns of parameter names and the factors of their learning rates (`classifier.*: "
        "10`); the first match applies.",
    )
    probe: PositiveFloat | Probe | None = numbers(
        None,
        asks_model=True,
        description="Linear probe: number of steps (below 1: that share of all steps) in which only the "
        "head is trained, at a constant rate, before the schedule begins. `{steps: 0.2, lr: 1.0e-3}` "
        "sets the rate too.",
    )
    unfreeze: Literal["gradual"] | PositiveFloat | None = numbers(
        None,
        asks_model=True,
        description="Gradual unfreezing: the head is trained first, then one more layer from the top "
        "every this many steps (below 1: that share of all steps). `gradual`: all layers are trained "
        "from the middle of the run on.",
    )
    l2_sp: NonNegativeFloat = numbers(
        0.0,
        description="Decays weights towards the pretrained ones: w −= lr·l2_sp·(w − w₀) before each step "
        "(L2-SP, arXiv:1802.01483, decoupled as AdamW's decay is). Does not affect new weights.",
    )
    average: Annotated[Ema | Swa, Field(discriminator="name")] | None = numbers(
        None,
        asks_model=True,
        description="Average the weights over steps; the average is evaluated, and becomes the result.",
    )
    interpolate: Literal["auto"] | Annotated[float, Field(ge=0.0, le=1.0)] | None = numbers(
        None,
        asks_model=True,
        description="Interpolate the weights: the result is (1 − a)·start + a·end (WiSE-FT, "
        "arXiv:2109.01903). `auto`: the a of 0, 0.1, … 1 that is best on the deciding validation set. "
        "Needs a pretrained head, or `probe`.",
    )
    distill: Distill | None = numbers(
        None,
        asks_model=True,
        description="Distillation: a second loss keeps the outputs near those of the pretrained model.",
    )

    @property
    def probing(self) -> Probe | None:
        """The probe in its long form."""
        return self.probe if self.probe is None or isinstance(self.probe, Probe) else Probe(steps=self.probe)

    @property
    def pretraining(self) -> Pretraining | None:
        """The stage of continued pre-training that comes first; None where there is none."""
        return None

    @property
    def rehearsed(self) -> Rehearsal | None:
        """The labelled samples of an earlier domain that are drawn as well."""
        return None

    @property
    def rehearsed_share(self) -> float:
        """Of the samples that are drawn, how many are of an earlier domain."""
        return 0.0 if self.rehearsed is None else self.rehearsed.share

    @property
    def epochs_before_target(self) -> int:
        """Epochs on the labelled samples alone, before the first step that sees the target."""
        return 0

    @property
    def own_class(self) -> str | None:
        """`file.py:ClassName` of a user's own method; None for ours."""
        return None

    @property
    def lr_factor_of_all(self) -> float:
        """What a method multiplies the learning rate of all parameters of the model by."""
        return 1.0

    @property
    def is_source_free(self) -> bool:
        """Whether the method learns without labelled samples."""
        return self.target == "alone"

    @property
    def asks_model(self) -> bool:
        """Whether only the model's modules tell if the method can be had with it, whatever its options are."""
        return True

    @property
    def reads_weights(self) -> bool:
        """Whether adapters are made of the weights' values, so that trying the job would read them all."""
        return self.adapters is not None and self.adapters.reads_weights

    @property
    def is_quantised(self) -> bool:
        """Whether frozen weights are held in 4 bits."""
        return self.adapters is not None and self.adapters.is_quantised

    @property
    def needs_the_start(self) -> bool:
        """Whether a resumed run must find the pretrained weights that it began with."""
        return self.l2_sp > 0 or self.interpolate is not None or self.distill is not None

    @property
    def kept_beside(self) -> str | None:
        """The first option that keeps a copy of what learns, None where none does."""
        names = [name for name in ("average", "l2_sp", "interpolate") if getattr(self, name) not in (None, 0.0)]
        return names[0] if names else None

    @property
    def copies(self) -> int:
        """How many copies of what learns are kept alongside it."""
        return int(self.average is not None) + int(self.l2_sp > 0 or self.interpolate is not None)
