"""The job file as types.

Every field carries its own documentation: the reference page, the editor schema and the comments of a
starter job are generated from here. Rules that join several fields are in `rules.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)
from pydantic_core import PydanticCustomError

from launcher.job.sections.data import Data, Source
from launcher.job.sections.evaluation import BASELINE, Validation, Verdict
from launcher.job.sections.marks import numbers, report, section, speed
from launcher.job.sections.methods import REHEARSAL, Adapt, Finetune
from launcher.job.sections.old_spelling import is_old, respelt
from launcher.job.sections.section import Fraction, Section
from launcher.job.sections.tasks import FAMILIES
from launcher.job.sections.training import Train

DEEPSPEED_TEMPLATES = ("zero1", "zero2", "zero3", "zero2_offload", "zero3_offload", "zero3_nvme")
"""The files of `ds_configs`."""


def _as_names(value: object) -> object:
    """Labels that YAML reads as integers or truth values, by the names that they have as labels of data."""
    if not isinstance(value, dict):
        return value
    return {str(ours): str(theirs) for ours, theirs in value.items()}


class Model(Section):
    """Which pretrained model is taken to the new domain."""

    pretrained: str = numbers(
        description="An alias (`minilm`), a folder, a finished run's folder, a hub id, a state dict "
        "(`.safetensors`, `.pt`, `.pth`, `.bin`, or Lightning's `.ckpt`, together with `config`), or "
        "`file.py:function`, which returns a `transformers` model."
    )
    config: str | None = numbers(
        None,
        measurement=True,
        description="For a state dict: the folder or hub id whose `config.json` describes the weights.",
    )
    tokenizer: str | None = numbers(
        None,
        measurement=True,
        description="Folder or hub id of the tokenizer (or image processor), where the model folder has none.",
    )
    revision: str | None = numbers(None, measurement=True, description="Branch, tag or commit of a hub id.")
    trust_remote_code: bool = numbers(False, description="Run code that comes with a model folder.")
    trust_code: tuple[str, ...] = report(
        (),
        description="Python files of your own that a model folder, such as that of a finished run, may "
        "run as its function or task; no other code of a folder is run. Files that the job itself names "
        "need not be listed.",
    )
    allow_missing: tuple[str, ...] = numbers(
        (),
        measurement=True,
        description="Patterns (`bert.pooler.*`) of weights that may be missing in the file; they are "
        "initialised at random.",
    )
    allow_unexpected: tuple[str, ...] = numbers(
        (),
        measurement=True,
        description="Patterns of weights in the file that are ignored, since the model does not have them.",
    )
    labels: Annotated[Literal["by-name", "new"] | dict[str, str], BeforeValidator(_as_names)] = numbers(
        "by-name",
        measurement=True,
        description="How labels of the data are matched with the rows of a trained head. by-name: by the "
        "same name, but for case and white space, with `LABEL_1` for 1. new: a new head, initialised at "
        "random. `{OURS: THE-HEAD'S}`: a mapping, for labels that have other names in the model's config.json.",
    )
    frozen: tuple[str, ...] = numbers(
        (),
        asks_model=True,
        description="Patterns (`bert.embeddings.*`) of parameters to freeze; they need no gradient and "
        "no optimizer state.",
    )
    dropout: Fraction | None = numbers(
        None, description="Overrides every dropout probability of the model; absent: the model's own."
    )


class Checkpoint(Section):
    """When the run saves what it needs to resume."""

    every_steps: PositiveInt | None = report(None, description="Steps between two checkpoints; absent: one per epoch.")
    every_minutes: PositiveFloat | None = report(None, description="Save also when this many minutes have passed.")
    keep: PositiveInt = report(2, description="How many of the last checkpoints are kept, besides the best.")
    in_background: bool = speed(
        True,
        description="Continue training while a checkpoint is written from a copy in host memory; false: "
        "wait, without a copy.",
    )
    dtype: Literal["fp32", "bf16", "fp16"] = report(
        "fp32", description="Number format of `model/`; training keeps fp32."
    )
    result: Literal["best", "last"] = report(
        "best",
        description="Which weights become `model/`: best by `validation.metric`; last without validation.",
    )


class Engine(Section):
    """How the model is spread over the processes."""

    name: Literal["auto", "single", "ddp", "fsdp", "deepspeed"] = speed(
        "auto",
        description="single: one process. ddp: the whole model on each process, gradients averaged. "
        "fsdp: weights, gradients and optimizer states sharded over the processes. deepspeed: ZeRO, as "
        "set by `deepspeed`. auto: single for one process; for more ddp, or fsdp if ddp does not fit into memory.",
    )
    deepspeed: str = speed(
        "zero2",
        only=("deepspeed",),
        description=f"deepspeed: a template ({', '.join(f'`{name}`' for name in DEEPSPEED_TEMPLATES)}) "
        "or a DeepSpeed JSON file of your own, in which `auto` takes the value from the job.",
    )
    nvme_path: str | None = speed(
        None,
        only=("deepspeed",),
        description="deepspeed: folder on a fast local disk, for `zero3_nvme` and own files.",
    )
    block: str | None = speed(
        None,
        asks_model=True,
        only=("fsdp",),
        description="fsdp: class of the modules that are sharded one at a time; absent: the repeated layers.",
    )


class Launch(Section):
    """Which processes run, and where their results go."""

    processes: Literal["auto"] | PositiveInt = speed(
        "auto", description="auto: one per GPU; without GPUs one per physical core, up to the global batch."
    )
    device: Literal["auto", "cpu", "cuda"] = speed("auto", description="auto: GPUs if there are any.")
    runs: str = report("runs", description="Folder in which each run creates its own folder.")
    timeout: PositiveFloat = speed(30.0, description="Timeout of a collective, in minutes.")
    patience: PositiveFloat = speed(
        5.0,
        description="Minutes without progress after which a rank counts as hung and the ranks are ended; "
        "where steps are long, ten times the longest step.",
    )
    max_restarts: NonNegativeInt = speed(
        3,
        description="How often in a row the ranks are restarted from the last checkpoint after a failure "
        "that may be transient (a killed or hung rank, a broken connection, a device error); a saved "
        "step resets the count.",
    )


class Tracker(Section):
    """A program that shows the figures of runs as they come."""

    name: Literal["tensorboard", "wandb", "mlflow"] = report(
        description="TensorBoard, Weights & Biases, or MLflow. Each is an extra: `pip install "
        "'adaptrun[wandb]'`. The name alone stands for this section with its defaults."
    )
    project: str = report(
        "adaptrun", only=("wandb", "mlflow"), description="wandb: the project; mlflow: the experiment."
    )
    entity: str | None = report(
        None, only=("wandb",), description="wandb: the team or user; absent: as wandb is set up."
    )
    mode: Literal["online", "offline"] = report(
        "online",
        only=("wandb",),
        description="wandb: offline writes files only, which `wandb sync` uploads later.",
    )
    uri: str | None = report(
        None,
        only=("mlflow",),
        description="mlflow: the server, or `sqlite:///file.db`; absent: what `MLFLOW_TRACKING_URI` says, else "
        "`mlflow.db` in the folder of the runs.",
    )
    folder: str | None = report(
        None,
        only=("tensorboard", "wandb"),
        description="tensorboard, wandb: folder in which each run gets a folder for its files; absent: "
        "the run's own folder.",
    )


def _named_trackers(value: object) -> object:
    """`track: wandb` and `track: [wandb]` are short for `track: [{name: wandb}]`."""
    listed = value if isinstance(value, list | tuple) else [value]
    return [{"name": each} if isinstance(each, str) else each for each in listed]


def _with_method(value: object) -> object:
    """Options of `adapt` without a method are of plain fine-tuning. Raises for adapters that are spelt as a method."""
    if isinstance(value, dict) and is_old(value):
        fix = yaml.safe_dump({"adapt": respelt(value)}, default_flow_style=True, sort_keys=False, width=10**6).strip()
        context = {
            "message": "adapters are no method, they combine with every method",
            "fix": fix[1:-1],
            "key": "method",
        }
        raise PydanticCustomError("respelt", "{message}", context)
    return {"method": "finetune"} | value if isinstance(value, dict) else value


RunName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=80)]


class Job(Section):
    """One job file. It alone decides the result, wherever it runs."""

    name: RunName = report(description="Letters, digits, `.`, `_` and `-`; the run's folder starts with it.")
    model: Model = section(description="Which pretrained model is taken to the new domain.")
    task: str = numbers(
        description=f"The task: {', '.join(f'`{name}`' for name in FAMILIES)}, or a class of your "
        "own, `file.py:ClassName` (docs/extending/task.md)."
    )
    data: Data = section(description="The data that the model is trained and evaluated on.")
    train: Train = section(default_factory=Train, description="How the model is trained.")
    validation: Validation = section(
        default_factory=Validation, description="When the model is evaluated, and by which metric."
    )
    verdict: Verdict = section(
        default_factory=Verdict, description="How it is decided whether the result should replace the old model."
    )
    checkpoint: Checkpoint = section(
        default_factory=Checkpoint, description="When the run saves what it needs to resume."
    )
    adapt: Annotated[Adapt, BeforeValidator(_with_method)] = section(
        default_factory=Finetune, description="How the model is adapted to the domain."
    )
    engine: Engine = section(default_factory=Engine, description="How the model is spread over the processes.")
    launch: Launch = section(default_factory=Launch, description="Which processes run, and where results go.")
    track: Annotated[tuple[Tracker, ...], BeforeValidator(_named_trackers)] = report(
        (), description="Where metrics are logged as well: one or several of `tensorboard`, `wandb` and `mlflow`."
    )

    @property
    def labelled_sets(self) -> dict[str, Source]:
        """All that is learned with labels: the training sets, and what is rehearsed."""
        rehearsal = self.adapt.rehearsed
        return dict(self.data.train) if rehearsal is None else {**self.data.train, REHEARSAL: rehearsal.source}

    @property
    def deciding_set(self) -> str | None:
        """The validation set whose metric decides; None without validation data."""
        return self.validation.set or next(iter(self.data.validation), None)

    @property
    def learns_from_target(self) -> bool:
        """Whether the method sees target samples at all; else they only choose the checkpoint."""
        return self.adapt.target != "none"

    @property
    def sees_target_alongside(self) -> bool:
        """Whether each step sees target samples and labelled ones."""
        given = self.adapt.target == "where given" and self.data.target is not None
        return given or self.adapt.target == "alongside"

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
        """The models that the result is compared with, in addition to the one that it came from: name to place."""
        baseline = {} if self.verdict.baseline is None else {BASELINE: self.verdict.baseline}
        return baseline | self.verdict.compare

    @property
    def runs_folder(self) -> Path:
        """Where this job's runs lie."""
        return Path(self.launch.runs).expanduser()

    def as_dict(self) -> dict[str, object]:
        """The job as plain values under the names of the job file."""
        return self.model_dump(mode="json")
