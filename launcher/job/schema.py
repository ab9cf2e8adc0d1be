"""The job file as types.

Every field carries its own documentation: the reference page, the editor schema and the comments of a
starter job are generated from here. Rules that join several fields are in `rules.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from launcher.job.adapting import Adapting
from launcher.job.methods import DomainMethod
from launcher.job.section import Fraction, Section
from launcher.job.tasks import FAMILIES

DEEPSPEED_TEMPLATES = ("zero1", "zero2", "zero3", "zero2_offload", "zero3_offload", "zero3_nvme")
"""The files of `ds_configs`."""


class Model(Section):
    """Which pretrained model is taken to the new domain."""

    pretrained: str = Field(
        description="An alias (`minilm`), a folder, a finished run's folder, a hub id, a `.safetensors` or `.pt` state "
        "dict (with `config` beside it), or `file.py:function`, which returns a `transformers` model."
    )
    config: str | None = Field(
        None, description="For a state dict: the folder or hub id whose `config.json` describes the weights."
    )
    tokenizer: str | None = Field(
        None, description="Folder or hub id of the tokenizer (or image processor), where it is not beside the model."
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a hub id.")
    trust_remote_code: bool = Field(False, description="Allow code that a model folder brings to run.")
    allow_missing: tuple[str, ...] = Field(
        (),
        description="Patterns (`bert.pooler.*`) of weights that the file may lack; they start at random.",
    )
    allow_unexpected: tuple[str, ...] = Field(
        (), description="Patterns of weights that the file may hold and that are then left out."
    )
    frozen: tuple[str, ...] = Field(
        (),
        description="Patterns (`bert.embeddings.*`) of parameters that do not learn; they take no gradient and no "
        "optimizer state.",
    )
    dropout: Fraction | None = Field(
        None, description="Replaces every dropout probability of the model; absent: as the model has it."
    )


class Source(Section):
    """One data set: where it lies and which columns it has."""

    source: str | tuple[str, ...] = Field(
        description="A csv, tsv, jsonl, parquet or conll file, or several, a folder saved by `datasets`, a folder with "
        "a folder of files for each class, or a hub id."
    )
    split: str | None = Field(None, description="Which split of a hub id or of a `datasets` folder.")
    text: str = Field("text", description="Name of the column that holds the text.")
    text_pair: str | None = Field(None, description="Name of the column of a second text, read with the first.")
    prompt: str | None = Field(None, description="causal-lm: name of the column of what is asked, not learned.")
    response: str | None = Field(None, description="causal-lm: name of the column of the answer, which is learned.")
    messages: str | None = Field(
        None,
        description="causal-lm: name of the column of chats: lists of `{role, content}`, of which the turns of the "
        "assistant are learned.",
    )
    words: str = Field("words", description="token-classification: name of the column of lists of words.")
    image: str = Field("image", description="Name of the column of images: paths, relative to the file, or bytes.")
    audio: str = Field("audio", description="Name of the column of wav files: paths, relative to the file, or bytes.")
    label: str = Field(
        "label",
        description="Name of the column that holds the label: text or integers; numbers for regression; lists "
        "for several labels and for words.",
    )
    label_separator: str = Field(
        ",", min_length=1, description="What stands between several labels that are held in one text."
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="Names of the columns that a task of your own reads, by role; absent: as the role is called.",
    )
    encoding: str = Field("utf-8", description="Encoding of csv, tsv, jsonl and conll files.")
    limit: PositiveInt | None = Field(None, description="Take only the first so many samples.")

    @property
    def files(self) -> tuple[str, ...]:
        """The places named, always as a tuple."""
        return (self.source,) if isinstance(self.source, str) else self.source

    def column(self, role: str) -> str | None:
        """Name of the column in a role; None for one that this source does not have."""
        if role in COLUMNS:
            name: str | None = getattr(self, role)
            return name
        return self.columns.get(role, role)


BASELINE = "baseline"
"""The name of `verdict.baseline` among the models that are compared."""
COLUMNS = ("text", "text_pair", "prompt", "response", "messages", "words", "image", "audio", "label")
"""The fields of a source that name a column."""


def _plain_source(value: object) -> object:
    """`train: file.csv` is short for `train: {source: file.csv}`."""
    return {"source": value} if isinstance(value, str | list | tuple) else value


def _named_sources(name: str) -> BeforeValidator:
    """`validation: file.csv` and `validation: {source: file.csv}` are one set of the name `validation`.

    `validation: {source: {source: file.csv}}` names one, which is called source.
    """

    def named(value: object) -> object:
        value = _plain_source(value)
        is_one = isinstance(value, dict) and "source" in value and not isinstance(value["source"], dict | Source)
        return {name: value} if is_one else value

    return BeforeValidator(named)


AnySource = Annotated[Source, BeforeValidator(_plain_source)]
SetName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=60)]


class Mixing(Section):
    """How often each set of `data.train` is drawn from, where there are several. An epoch draws as many as all hold."""

    alpha: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        1.0, description="A set of n samples has a share ∝ n^alpha: 1 as large as it is, 0 all alike."
    )
    weights: dict[SetName, PositiveFloat] | None = Field(
        None, description="The shares themselves, up to a common factor, for each set by name."
    )


class Data(Section):
    """What the model learns from and what it is judged on."""

    train: Annotated[dict[SetName, AnySource], _named_sources("train")] = Field(
        default_factory=dict,
        description="Labelled samples to train on: one source, or several domains with a name each "
        "(`{films: {…}, shops: {…}}`).",
    )
    mixing: Mixing = Field(default_factory=Mixing, description="How often each of several training sets is drawn from.")
    validation: Annotated[dict[SetName, AnySource], _named_sources("validation")] = Field(
        default_factory=dict,
        description="Labelled samples to judge by: one source, or several with a name each "
        "(`{source: {…}, target: {…}}`). The first is the one that `validation.set` means by default.",
    )
    target: AnySource | None = Field(
        None,
        description="Unlabelled samples of the target domain, for the methods that use them, `adaptrun gap`, and "
        "`validation.selector: importance-weighted`.",
    )
    allow_leakage: bool = Field(
        False,
        description="Train although validation samples are also trained on (the same but for case, white space and "
        "forms of characters); their figures then say less of new samples.",
    )
    cache: str = Field(
        "~/.cache/adaptrun",
        description="Folder of the prepared (tokenised) data; on a cluster, one all nodes see.",
    )

    def place_in_train(self, name: str) -> tuple[str, ...]:
        """Where the file has a training set: a single one may bear no name there."""
        return ("data", "train") if list(self.train) == ["train"] else ("data", "train", name)


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
    factor: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(0.5, description="Plateau: what the rate is multiplied by.")
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
        2.0, description="focal: how much less a sample counts that is already told apart well."
    )
    delta: PositiveFloat = Field(1.0, description="huber: the error beyond which the loss is no longer squared.")


class Augment(Section):
    """What is done to images at random while training: a function of the seed, the sample and the epoch alone."""

    flip: bool = Field(False, description="Mirror half of them, left to right; not for digits or text.")
    crop: NonNegativeInt = Field(0, description="Shift by up to so many pixels in each direction, the edge repeated.")


class EarlyStopping(Section):
    """Stop when validation no longer improves."""

    patience: PositiveInt = Field(3, description="Evaluations without improvement after which training ends.")
    min_delta: NonNegativeFloat = Field(0.0, description="The least change that counts as improvement.")


class Train(Section):
    """How the model is trained."""

    epochs: PositiveInt = Field(3, description="Passes over the training data.")
    max_steps: PositiveInt | None = Field(None, description="Stop after so many optimizer steps, if sooner.")
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
        description="How many steps in a row are discarded because their loss or gradient is not finite, before the "
        "run fails.",
    )
    optimizer: Optimizer = Field(default_factory=Optimizer, description="How a gradient becomes a step.")
    schedule: Schedule = Field(default_factory=Schedule, description="The learning rate over time.")
    loss: Loss = Field(default_factory=Loss, description="What is minimised.")
    early_stopping: EarlyStopping | None = Field(None, description="Stop when validation no longer improves.")


class Validation(Section):
    """When the model is judged, and by what."""

    every: Literal["epoch"] | PositiveInt = Field("epoch", description="Each epoch, or each so many steps.")
    metric: str = Field(
        "loss",
        description="What decides the best checkpoint, the plateau and early stopping: `loss`, or a metric of the task "
        "(docs/tasks.md).",
    )
    set: str | None = Field(None, description="Which validation set decides; absent: the first named.")
    selector: Literal["labelled", "importance-weighted"] = Field(
        "labelled",
        description="What chooses the best checkpoint: the metric on the set; or, where `data.target` has no labels, "
        "the metric (loss or accuracy) with each sample of the set weighted by how common its like is in the target.",
    )
    batch_size: PositiveInt = Field(32, description="Samples of full length evaluated at once; changes no result.")


class Verdict(Section):
    """Whether the result should take the old model's place, and by what that is told (docs/verdict.md)."""

    metric: str = Field(
        "auto",
        description="What has to be better. auto: `validation.metric`, or where that is the loss, the first metric of "
        "the task.",
    )
    set: str | None = Field(
        None,
        description="The validation set on which it has to be better; absent: the one that decides. A set that does "
        "not choose the checkpoint too is judged without favour.",
    )
    baseline: str | None = Field(
        None,
        description="The finished run or model folder whose place the result would take; absent: the model as it came.",
    )
    compare: dict[SetName, str] = Field(
        default_factory=dict,
        description="Further finished runs or model folders, with a name each (`{scratch: runs/a, oracle: runs/b}`): "
        "measured on the same samples and shown, without a say.",
    )
    must_hold: tuple[str, ...] = Field(
        (), description="Validation sets that may not fall by more than the margin: what must not be forgotten."
    )
    margin: NonNegativeFloat = Field(
        0.01,
        description="What counts as little: 0.01 is one point of a score that should be high, and 1 % of the "
        "baseline's value of a metric that should be low.",
    )
    gate: bool = Field(
        False, description="End with exit code 1 unless the verdict is to adopt; `adaptrun train --gate` sets it."
    )


class Checkpoint(Section):
    """When the run saves what it needs to go on."""

    every_steps: PositiveInt | None = Field(None, description="Save each so many steps; absent: each epoch.")
    every_minutes: PositiveFloat | None = Field(None, description="Save also when so many minutes have passed.")
    keep: PositiveInt = Field(2, description="How many of the last are kept, beside the best.")
    in_background: bool = Field(
        True, description="Train on while a checkpoint is written, from a copy in host memory; false needs no copy."
    )
    dtype: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="Number format of `model/`; training keeps fp32."
    )
    result: Literal["best", "last"] = Field(
        "best",
        description="Which weights become `model/`: best by `validation.metric`; last without validation.",
    )


class Rehearsal(Section):
    """Labelled samples of an earlier domain, trained on beside the new ones so that it is not forgotten."""

    source: AnySource = Field(description="Those samples, with the labels of the new domain.")
    share: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(0.2, description="Of the samples that are drawn.")


REHEARSAL = "rehearsal"
"""Name of its samples beside the training sets."""


class Finetune(Adapting):
    """All weights learn, but for those of `model.frozen`."""

    method: Literal["finetune"] = Field("finetune", description="Fine-tune all weights on the labelled samples.")
    rehearsal: Rehearsal | None = Field(None, description="Labelled samples of an earlier domain, against forgetting.")


class Lora(Adapting):
    """Low-rank adapters beside frozen weights (Hu et al. 2021, arXiv:2106.09685)."""

    method: Literal["lora"] = Field(
        description="Each target matrix W stays as it is and gets a product B·A of low rank beside it, which learns. "
        "So do the head of a classifier and weights that the pretrained model lacks."
    )
    rank: PositiveInt = Field(8, description="Rows of A and columns of B.")
    alpha: PositiveFloat = Field(16.0, description="B·A counts alpha / rank times.")
    dropout: Fraction = Field(0.0, description="Dropout on what goes into A.")
    targets: Literal["auto"] | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        "auto",
        description="auto: every linear layer of the repeated blocks. Or patterns of modules' names, whose first parts "
        "may be left out (`query`, `*.q_proj`, `encoder.layer.0.*`).",
    )
    rank_stabilised: bool = Field(
        False, description="B·A counts alpha / √rank times, so that large ranks learn too (rsLoRA, arXiv:2312.03732)."
    )
    dora: bool = Field(
        False,
        description="The length of each row of W + B·A learns by itself (DoRA, arXiv:2402.09353): a little better at "
        "low ranks, slower, more memory.",
    )
    quantised: Literal[False, "4bit"] = Field(
        False,
        description="`4bit`: the frozen matrices in 4 bits (QLoRA, arXiv:2305.14314). Needs GPUs and the extra "
        "`adaptrun[quantised]`.",
    )
    merge: bool = Field(
        False,
        description="Leave in `model/` the whole model with the adapters added to its weights, and the adapters in "
        "`adapter/`. Without it `model/` is the adapters alone.",
    )

    @property
    def scaling(self) -> float:
        """What B·A is multiplied by."""
        return self.alpha / (self.rank**0.5 if self.rank_stabilised else self.rank)


Adapt = Annotated[Finetune | Lora | DomainMethod, Field(discriminator="method")]
"""How the model moves to the domain: a section a method."""


class Engine(Section):
    """How the model is spread over the processes."""

    name: Literal["auto", "single", "ddp", "fsdp", "deepspeed"] = Field(
        "auto",
        description="single: one process. ddp: the model on each, gradients averaged. fsdp: each keeps a slice of "
        "weights, gradients and optimizer. deepspeed: ZeRO, as `deepspeed` says. auto: single for one process; for "
        "more ddp, or fsdp where ddp does not fit.",
    )
    deepspeed: str = Field(
        "zero2",
        description=f"deepspeed: a template ({', '.join(f'`{name}`' for name in DEEPSPEED_TEMPLATES)}) or a DeepSpeed "
        "JSON file of your own, in which `auto` is what the job says.",
    )
    nvme_path: str | None = Field(
        None, description="deepspeed: folder on a fast local disk, for `zero3_nvme` and own files."
    )
    block: str | None = Field(
        None, description="fsdp: class of the modules that are sharded one at a time; absent: the repeated layers."
    )


class Launch(Section):
    """Which processes run, and where their results go."""

    processes: Literal["auto"] | PositiveInt = Field(
        "auto", description="auto: one a GPU; without GPUs one a physical core, up to the global batch."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: GPUs where there are any.")
    runs: str = Field("runs", description="Folder in which each run makes its own.")
    timeout: PositiveFloat = Field(30.0, description="Minutes after which a collective without an answer fails.")
    patience: PositiveFloat = Field(
        5.0,
        description="Minutes without progress after which, at the soonest, a rank counts as hung and the ranks are "
        "ended; later where steps are long: ten times the longest.",
    )
    max_restarts: NonNegativeInt = Field(
        3,
        description="How often in a row the ranks are started again, from the last checkpoint, after a failure that "
        "may pass (a killed or hung rank, a broken connection, a device's error); a step saved counts anew.",
    )


class Tracker(Section):
    """A program that shows the figures of runs as they come."""

    name: Literal["tensorboard", "wandb", "mlflow"] = Field(
        description="TensorBoard, Weights & Biases, or MLflow. Each is an extra: `pip install 'adaptrun[wandb]'`. The "
        "name alone is short for this section."
    )
    project: str = Field("adaptrun", description="wandb: the project; mlflow: the experiment.")
    entity: str | None = Field(None, description="wandb: the team or user; absent: as wandb is set up.")
    mode: Literal["online", "offline"] = Field(
        "online", description="wandb: offline keeps all in files, which `wandb sync` sends later."
    )
    uri: str | None = Field(
        None,
        description="mlflow: the server, or `sqlite:///file.db`; absent: what `MLFLOW_TRACKING_URI` says, else "
        "`mlflow.db` in the folder of the runs.",
    )
    folder: str | None = Field(
        None,
        description="tensorboard, wandb: folder in which each run's files get a folder of their own; absent: the run's "
        "folder.",
    )


def _named_trackers(value: object) -> object:
    """`track: wandb` and `track: [wandb]` are short for `track: [{name: wandb}]`."""
    listed = value if isinstance(value, list | tuple) else [value]
    return [{"name": each} if isinstance(each, str) else each for each in listed]


RunName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=80)]


class Job(Section):
    """One job file. It alone decides the result, wherever it runs."""

    name: RunName = Field(description="Letters, digits, `.`, `_` and `-`; the run's folder starts with it.")
    model: Model = Field(description="Which pretrained model is taken to the new domain.")
    task: str = Field(
        description=f"What the model learns to do: {', '.join(f'`{name}`' for name in FAMILIES)}, or a class of your "
        "own, `file.py:ClassName` (docs/own-task.md)."
    )
    data: Data = Field(description="What the model learns from and what it is judged on.")
    train: Train = Field(default_factory=Train, description="How the model is trained.")
    validation: Validation = Field(default_factory=Validation, description="When the model is judged, and by what.")
    verdict: Verdict = Field(
        default_factory=Verdict, description="Whether the result should take the old model's place."
    )
    checkpoint: Checkpoint = Field(default_factory=Checkpoint, description="When the run saves what it needs to go on.")
    adapt: Adapt = Field(default_factory=Finetune, description="How the model moves to the domain.")
    engine: Engine = Field(default_factory=Engine, description="How the model is spread over the processes.")
    launch: Launch = Field(default_factory=Launch, description="Which processes run, and where results go.")
    track: Annotated[tuple[Tracker, ...], BeforeValidator(_named_trackers)] = Field(
        (), description="Where the figures go as well: one or several of `tensorboard`, `wandb` and `mlflow`."
    )

    @property
    def labelled_sets(self) -> dict[str, Source]:
        """All that is learned with labels: the training sets, and what is rehearsed."""
        rehearsal = self.adapt.rehearsal if isinstance(self.adapt, Finetune) else None
        return dict(self.data.train) if rehearsal is None else {**self.data.train, REHEARSAL: rehearsal.source}

    @property
    def deciding_set(self) -> str | None:
        """The validation set whose metric decides; None without validation data."""
        return self.validation.set or next(iter(self.data.validation), None)

    @property
    def selects_for_target(self) -> bool:
        """Whether the checkpoint is chosen for a target without labels."""
        return self.validation.selector == "importance-weighted"

    @property
    def verdict_set(self) -> str | None:
        """The validation set that the verdict is given on; None without validation data."""
        return self.verdict.set or self.deciding_set

    @property
    def others(self) -> dict[str, str]:
        """The models that the result is compared with, beside the one that it came from: name to place."""
        baseline = {} if self.verdict.baseline is None else {BASELINE: self.verdict.baseline}
        return baseline | self.verdict.compare

    @property
    def runs_folder(self) -> Path:
        """Where this job's runs lie."""
        return Path(self.launch.runs).expanduser()

    def as_dict(self) -> dict[str, object]:
        """The job as plain values under the names of the job file."""
        return self.model_dump(mode="json")
