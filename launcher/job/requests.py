"""What commands ask of ranks, and what the ranks answer: a class for each request, and one for its answer.

A request is written into a file, `python -m launcher.worker FILE` serves it on every rank, and rank 0 leaves the
answer next to it. `launcher.worker.__main__` has the table of which function serves which request.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, Self, TypeVar

from pydantic import BaseModel, ConfigDict, PositiveInt

from launcher.errors import RequestError
from launcher.job.schema import Job, Model
from launcher.job.sections.data import COLUMNS, Source
from launcher.job.sections.section import Section

SUFFIX = ".request"
"""Of the file of a request, by which a rank tells it from a job file; its stem is the name of the request's class."""

Device = Literal["cpu", "cuda"]


RANK = (sys.executable, "-P", "-m", "launcher.worker")
"""The command of a rank; its argument is a planned run's folder, a job file, or the file of a request."""


def rank_command(target: Path) -> list[str]:
    """The command of a rank that serves a planned run's folder, a job file, or the file of a request."""
    return [*RANK, str(target)]


class Answer(BaseModel):
    """What rank 0 leaves; figures may be NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Done(Answer):
    """Of a request that asks only for something to be done."""


AnyAnswer = TypeVar("AnyAnswer", bound=Answer)


class Request(Section, Generic[AnyAnswer]):
    """Something that a command asks of ranks, and by its parameter what it is answered with."""

    def write(self, folder: Path) -> Path:
        """Leave the request in a folder; the place of its file."""
        file = folder / f"{type(self).__name__}{SUFFIX}"
        file.write_text(self.model_dump_json(), encoding="utf-8")
        return file

    @classmethod
    def read(cls, file: Path) -> Self:
        """The request of a file."""
        return cls.model_validate_json(file.read_bytes())

    def read_answer(self, file: Path) -> AnyAnswer:
        """What rank 0 left next to the file of the request."""
        answer: type[AnyAnswer] = next(
            base.__pydantic_generic_metadata__["args"][0]
            for base in type(self).__mro__
            if issubclass(base, Request) and base.__pydantic_generic_metadata__["args"]
        )
        return answer.model_validate_json(answer_file(file).read_bytes())


class FolderRequest(Request[AnyAnswer], Generic[AnyAnswer]):
    """A request about a folder laid out like a run's, which keeps the logs, the events and the failures of the ranks.

    folder: its absolute path
    """

    folder: str


def answer_file(request: Path) -> Path:
    """Where the answer to the request of a file lies."""
    return request.with_suffix(".answer")


class TrainingRequest(Request[Done]):
    """Train. It is the one request that a command line says, so that anything may start the ranks.

    target: the folder of a planned run, or a job file, of which the ranks make the run
    sets, resume: for a job file alone, as `adaptrun train` takes them
    """

    target: Path
    sets: tuple[str, ...] = ()
    resume: str = "auto"


class PreparationRequest(FolderRequest[Done]):
    """Prepare the data of a planned run, before its ranks start."""


class LrRangePoint(NamedTuple):
    """A step: its rate, its loss, and the moving average of the losses so far, without the bias of its beginning."""

    lr: float
    loss: float
    smoothed: float


class LrRangeAnswer(Answer):
    """The steps taken, the suggested rate (None where the loss never fell), and the rule it follows, in words."""

    points: tuple[LrRangePoint, ...]
    suggestion: float | None
    verdict: str


class LrRangeRequest(FolderRequest[LrRangeAnswer]):
    """Take the steps of a learning-rate range test with the job and the plan of a folder."""


class FeaturesAnswer(Answer):
    """The file of each set's features, [samples, size] float32."""

    features: dict[str, str]


class FeaturesRequest(FolderRequest[FeaturesAnswer]):
    """Extract the features of every sample of a folder's job."""

    device: Device


class InferenceRequest(Request[AnyAnswer], Generic[AnyAnswer]):
    """Compute with the model of a folder on one data set.

    max_length: None takes what the model folder was trained with
    """

    model: Model
    data: Source
    batch_size: PositiveInt = 32
    max_length: PositiveInt | None = None
    device: Device = "cpu"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    cache: str


class EvaluationAnswer(Answer):
    """The metrics with their 95 % intervals, each sample counted once."""

    samples: int
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    seconds: float
    notes: tuple[str, ...] = ()


class EvaluationRequest(InferenceRequest[EvaluationAnswer]):
    """Evaluate a model folder on labelled data."""


class PredictionAnswer(Answer):
    """How many rows were written."""

    rows: int
    notes: tuple[str, ...] = ()


class PredictionRequest(InferenceRequest[PredictionAnswer]):
    """Predict with a model folder.

    output: absolute path of the file of predictions (csv, jsonl or parquet)
    """

    output: str


class Ingredient(BaseModel):
    """One of the models offered to a soup.

    alone, together: its own value, and that of the mean with it
    kept: whether it stayed in the mean
    """

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    folder: str
    alone: float
    together: float
    kept: bool


class SoupAnswer(Answer):
    """What became of each model, the best first."""

    runs: tuple[Ingredient, ...]
    notes: tuple[str, ...] = ()


class SoupRequest(Request[SoupAnswer]):
    """Average models, and leave out those that make the mean worse.

    job: says by which metric they are compared
    evaluation: of the first model, on the data that decide
    """

    job: Job
    evaluation: EvaluationRequest
    models: tuple[str, ...]
    output: str
    dtype: str


class ConsolidationAnswer(Answer):
    """How many tensors were written, and the notes about them."""

    tensors: int
    notes: tuple[str, ...] = ()


class ConsolidationRequest(Request[ConsolidationAnswer]):
    """Make a model folder of a checkpoint.

    skeleton: a model folder of the same architecture; None takes what lies with the checkpoint
    trusted: files of the user's own whose code adapters, or their base, may name
    """

    checkpoint: str
    output: str
    dtype: str
    skeleton: str | None = None
    prefix: str | None = None
    trusted: tuple[str, ...] = ()


class PlannedRun(NamedTuple):
    """A job with its plan in a folder of the request's own, and what distinguishes it, empty where there is one."""

    name: str
    within: str


class ModelCheckRequest(FolderRequest[Done]):
    """Say which of the planned jobs cannot be had with the modules of its model."""

    planned: tuple[PlannedRun, ...]


class RankCheckAnswer(Answer):
    """How ranks get on with each other on this machine.

    device: the name of the GPU, empty without
    deepspeed: what is wrong with it, empty where nothing is; operations: what it can compile here
    """

    backend: str
    gigabytes_per_second: float
    device: str
    deepspeed: str
    operations: str


class RankCheckRequest(Request[RankCheckAnswer]):
    """Meet, measure an all-reduce, and look at the libraries."""

    device: Device


class ShapesAnswer(Answer):
    """The shape of each parameter by its name; tied ones count once."""

    shapes: dict[str, tuple[int, ...]]


class ShapesRequest(Request[ShapesAnswer]):
    """Say what parameters the model of a config has; it is built without memory for them.

    config: the folder of the config
    auto_class: of `transformers`, such as AutoModel
    """

    config: str
    auto_class: str


class SelfcheckMaterialRequest(FolderRequest[Done]):
    """Make the model and the texts of the self-check."""


class SelfcheckRequest(FolderRequest[Done]):
    """Train some cases of the self-check in one world.

    cases: names of planned runs within the folder
    """

    cases: tuple[str, ...]


def source_of(data: str, named: Mapping[str, str], pairs: Sequence[str], **options: Any) -> Source:
    """The data of a command line.

    named: columns by role; pairs: more of them, as `ROLE=NAME`
    Raises RequestError for a pair that is none.
    """
    columns, own = dict(named), dict[str, str]()
    for pair in pairs:
        role, equals, name = pair.partition("=")
        if not (role and equals and name):
            raise RequestError(f"--column {pair}: expected ROLE=NAME, such as prompt=question")
        (columns if role in COLUMNS else own)[role] = name
    return Source(source=data, **columns, columns=own, **options)
