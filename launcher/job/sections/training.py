"""The sections of the job file that say how the model is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from launcher.job.sections.marks import numbers, section, speed
from launcher.job.sections.section import Fraction, Section


class Optimizer(Section):
    """The optimizer and its settings. All values are explicit: libraries differ in their defaults."""

    name: Literal["adamw", "sgd", "schedule_free_adamw"] = numbers(
        "adamw",
        description="AdamW; stochastic gradient descent; or schedule-free AdamW (arXiv:2405.15682), which averages its "
        "steps instead of lowering the rate and needs the extra `adaptrun[schedule-free]`.",
    )
    lr: PositiveFloat = numbers(2e-5, description="Peak learning rate.")
    weight_decay: NonNegativeFloat = numbers(
        0.01, description="Decoupled (AdamW) or L2 (SGD) decay; biases and normalisation weights are exempt."
    )
    betas: tuple[Fraction, Fraction] = numbers(
        (0.9, 0.999),
        only=("adamw", "schedule_free_adamw"),
        description="AdamW's decay rates of the two moments.",
    )
    eps: PositiveFloat = numbers(
        1e-8, only=("adamw", "schedule_free_adamw"), description="AdamW's epsilon, the term against division by zero."
    )
    momentum: Fraction = numbers(0.0, only=("sgd",), description="SGD's momentum.")


class Schedule(Section):
    """The learning rate as a function of the step alone, or (plateau) of the validation metric."""

    name: Literal["constant", "linear", "cosine", "plateau"] = numbers(
        "cosine",
        description="After warm-up: flat, straight down, half a cosine, or lowered when validation stalls.",
    )
    warmup: NonNegativeFloat = numbers(
        0.0, description="Linear warm-up: a fraction of all steps below 1, a number of steps from 1 on."
    )
    min_lr: NonNegativeFloat = numbers(0.0, description="The learning rate never falls below this.")
    factor: Annotated[float, Field(gt=0.0, lt=1.0)] = numbers(
        0.5, only=("plateau",), description="Plateau: factor of the learning rate."
    )
    patience: PositiveInt = numbers(
        2,
        only=("plateau",),
        description="Plateau: evaluations without improvement after which the rate is lowered.",
    )
    min_delta: NonNegativeFloat = numbers(
        0.0, only=("plateau",), description="Plateau: the least change that counts as improvement."
    )


class Loss(Section):
    """The loss that is minimised."""

    name: str = numbers(
        "auto",
        measurement=True,
        description="The loss of one sample or token: `cross-entropy`, `focal` (Lin et al. 2017), "
        "`binary` (several labels per sample), `mean-squared`, `huber`; docs/guides/tasks.md lists those "
        "of each task. auto: the first of the task.",
    )
    class_weights: Literal["balanced"] | dict[str, PositiveFloat] | None = numbers(
        None,
        only=("cross-entropy", "focal"),
        description="`balanced` (inverse to the class's frequency in training) or a weight for each label.",
    )
    label_smoothing: Fraction = numbers(
        0.0,
        only=("cross-entropy",),
        description="cross-entropy: share of the target distribution that is spread evenly over all classes.",
    )
    gamma: NonNegativeFloat = numbers(
        2.0,
        only=("focal",),
        description="focal: focusing parameter γ, which down-weights well-classified samples.",
    )
    delta: PositiveFloat = numbers(
        1.0,
        measurement=True,
        only=("huber",),
        description="huber: the error beyond which the loss is no longer squared.",
    )


class Augment(Section):
    """What is done to images at random while training: a function of the seed, the sample and the epoch alone."""

    flip: bool = numbers(
        False, description="Mirror half of the images, left to right; not for images of digits or text."
    )
    crop: NonNegativeInt = numbers(
        0, description="Shift by up to this many pixels in each direction, the edge repeated."
    )


class EarlyStopping(Section):
    """Stop when validation no longer improves."""

    patience: PositiveInt = numbers(3, description="Evaluations without improvement after which training ends.")
    min_delta: NonNegativeFloat = numbers(0.0, description="The least change that counts as improvement.")


class Train(Section):
    """How the model is trained."""

    epochs: PositiveInt = numbers(3, description="Passes over the training data.")
    max_steps: PositiveInt | None = numbers(
        None, description="Stop after this many optimizer steps, if that is sooner."
    )
    global_batch_size: PositiveInt = numbers(
        32, description="Samples per optimizer step, whatever the number of processes."
    )
    micro_batch_size: Literal["auto"] | PositiveInt = speed(
        "auto",
        description="Samples of full length that a process handles at once; changes no result.",
    )
    activation_checkpointing: bool = speed(
        False,
        asks_model=True,
        description="Compute activations again in the backward pass: about a third slower, far less memory; changes no "
        "result.",
    )
    max_length: PositiveInt = numbers(
        128, data=True, description="Longest sample in tokens; longer ones are truncated."
    )
    packing: bool = speed(
        False,
        description="causal-lm: pack several samples into each row of `max_length` tokens, without "
        "attention between them; changes no result.",
    )
    mask_share: Annotated[float, Field(gt=0.0, lt=1.0)] = numbers(
        0.15, measurement=True, description="masked-lm: share of the tokens that are masked."
    )
    max_seconds: PositiveFloat = numbers(
        10.0,
        data=True,
        measurement=True,
        description="audio-classification: length that every sound is cut or padded to.",
    )
    augment: Augment = section(default_factory=Augment, description="image-classification: changes of the images.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = numbers(
        "auto",
        description="auto: bf16 if the device supports it, else fp32. fp16 scales the loss and needs a GPU.",
    )
    tf32: bool = numbers(
        False, description="Let GPUs round the factors of fp32 matrix products to 10 bits (TensorFloat-32): faster."
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = numbers(
        0, description="Seed of the order of samples, of dropout and of new weights."
    )
    clip_norm: PositiveFloat | None = numbers(
        1.0, description="Gradient clipping: the largest norm of the whole gradient; null: no clipping."
    )
    discard_limit: NonNegativeInt = numbers(
        3,
        description="How many steps in a row with a NaN or infinite loss or gradient are skipped before the run fails.",
    )
    optimizer: Optimizer = section(default_factory=Optimizer, description="The optimizer and its settings.")
    schedule: Schedule = section(default_factory=Schedule, description="The learning rate over time.")
    loss: Loss = section(default_factory=Loss, description="The loss that is minimised.")
    early_stopping: EarlyStopping | None = section(None, description="Stop when validation no longer improves.")
