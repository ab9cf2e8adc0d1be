"""The sections of the job file that say how the model is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from launcher.job.section import Fraction, Section


class Optimizer(Section):
    """How a gradient becomes a step. All values are explicit: libraries differ in their defaults."""

    name: Literal["adamw", "sgd", "schedule_free_adamw"] = Field(
        "adamw",
        description="AdamW; stochastic gradient descent; or schedule-free AdamW (arXiv:2405.15682), which averages its "
        "steps instead of lowering the rate and needs the extra `adaptrun[schedule-free]`.",
    )
    lr: PositiveFloat = Field(2e-5, description="Peak learning rate.")
    weight_decay: NonNegativeFloat = Field(
        0.01, description="Decoupled (AdamW) or L2 (SGD) decay; biases and normalisation weights are exempt."
    )
    betas: tuple[Fraction, Fraction] = Field((0.9, 0.999), description="AdamW's decay rates of the two moments.")
    eps: PositiveFloat = Field(1e-8, description="AdamW's term against division by zero.")
    momentum: Fraction = Field(0.0, description="SGD's momentum.")


class Schedule(Section):
    """The learning rate as a function of the step alone, or (plateau) of the validation metric."""

    name: Literal["constant", "linear", "cosine", "plateau"] = Field(
        "cosine",
        description="After warm-up: flat, straight down, half a cosine, or lowered when validation stalls.",
    )
    warmup: NonNegativeFloat = Field(
        0.0, description="Linear warm-up: a fraction of all steps below 1, a number of steps from 1 on."
    )
    min_lr: NonNegativeFloat = Field(0.0, description="The learning rate never falls below this.")
    factor: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(0.5, description="Plateau: factor of the learning rate.")
    patience: PositiveInt = Field(
        2, description="Plateau: evaluations without improvement after which the rate is lowered."
    )
    min_delta: NonNegativeFloat = Field(0.0, description="Plateau: the least change that counts as improvement.")


class Loss(Section):
    """What is minimised."""

    name: str = Field(
        "auto",
        description="The loss of one sample or token: `cross-entropy`, `focal` (Lin et al. 2017), `binary` (several "
        "labels a sample), `mean-squared`, `huber`; which of them a task has says docs/tasks.md. auto: its first.",
    )
    class_weights: Literal["balanced"] | dict[str, PositiveFloat] | None = Field(
        None,
        description="`balanced` (inverse to the class's frequency in training) or a weight for each label.",
    )
    label_smoothing: Fraction = Field(
        0.0, description="cross-entropy: share of the target spread evenly over all classes."
    )
    gamma: NonNegativeFloat = Field(
        2.0, description="focal: focusing parameter γ, which down-weights well-classified samples."
    )
    delta: PositiveFloat = Field(1.0, description="huber: the error beyond which the loss is no longer squared.")


class Augment(Section):
    """What is done to images at random while training: a function of the seed, the sample and the epoch alone."""

    flip: bool = Field(False, description="Mirror half of them, left to right; not for digits or text.")
    crop: NonNegativeInt = Field(0, description="Shift by up to this many pixels in each direction, the edge repeated.")


class EarlyStopping(Section):
    """Stop when validation no longer improves."""

    patience: PositiveInt = Field(3, description="Evaluations without improvement after which training ends.")
    min_delta: NonNegativeFloat = Field(0.0, description="The least change that counts as improvement.")


class Train(Section):
    """How the model is trained."""

    epochs: PositiveInt = Field(3, description="Passes over the training data.")
    max_steps: PositiveInt | None = Field(None, description="Stop after this many optimizer steps, if sooner.")
    global_batch_size: PositiveInt = Field(32, description="Samples an optimizer step, on any number of processes.")
    micro_batch_size: Literal["auto"] | PositiveInt = Field(
        "auto",
        description="Samples of full length that a process handles at once; changes no result.",
    )
    activation_checkpointing: bool = Field(
        False,
        description="Compute activations again in the backward pass: about a third slower, far less memory; changes no "
        "result.",
    )
    max_length: PositiveInt = Field(128, description="Tokens of a sample beyond which it is cut.")
    packing: bool = Field(
        False,
        description="causal-lm: lay several samples into each row of `max_length` tokens, where none sees another; "
        "changes no result.",
    )
    mask_share: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.15, description="masked-lm: share of the tokens that are to be guessed."
    )
    max_seconds: PositiveFloat = Field(
        10.0, description="audio-classification: length that every sound is cut or padded to."
    )
    augment: Augment = Field(default_factory=Augment, description="image-classification: changes of the images.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="auto: bf16 where the device has it, else fp32. fp16 scales the loss and needs a GPU.",
    )
    tf32: bool = Field(
        False, description="Let GPUs round the factors of fp32 matrix products to 10 bits (TensorFloat-32): faster."
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        0, description="Decides the order of samples, dropout and the start of new weights."
    )
    clip_norm: PositiveFloat | None = Field(1.0, description="Largest norm of the whole gradient; null: no clipping.")
    discard_limit: NonNegativeInt = Field(
        3,
        description="How many steps in a row with a NaN or infinite loss or gradient are discarded before the "
        "run fails.",
    )
    optimizer: Optimizer = Field(default_factory=Optimizer, description="How a gradient becomes a step.")
    schedule: Schedule = Field(default_factory=Schedule, description="The learning rate over time.")
    loss: Loss = Field(default_factory=Loss, description="What is minimised.")
    early_stopping: EarlyStopping | None = Field(None, description="Stop when validation no longer improves.")
