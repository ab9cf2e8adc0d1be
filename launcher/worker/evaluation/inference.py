"""Evaluation or prediction with a model folder, on the data of one request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from launcher.data.label_vectors import read_as
from launcher.data.prepared import Prepared
from launcher.errors import ModelError
from launcher.job.pretrained import find_pretrained, label_format_of, longest_input, task_of
from launcher.job.requests import InferenceRequest
from launcher.job.sections.data import LabelFormat
from launcher.job.sections.training import Train
from launcher.models import task_class
from launcher.models.parts.ready import make_ready
from launcher.models.tasks.base import Task, TaskModule
from launcher.models.weights import loading
from launcher.worker.data.inputs import identity
from launcher.worker.data.preparing import Preparer
from launcher.worker.evaluation.padding_check import choose_batches
from launcher.worker.rank.process import RankEnv
from launcher.worker.rank.world import World

DEFAULT_TASK, DEFAULT_LENGTH = "text-classification", 512
TIMEOUT = 30.0


@dataclass(frozen=True)
class OpenModel:
    """A finished model, ready for inference.

    identity: identity of the task's code and processor, part of the cache key of prepared data
    label_format: label format of its training data
    """

    task: Task
    module: TaskModule
    identity: str
    label_format: LabelFormat


class Opened(NamedTuple):
    """A model and the data of a request, ready for inference in a world.

    notes: changes to either
    """

    model: OpenModel
    data: Prepared
    world: World
    notes: list[str]


@contextmanager
def opened(request: InferenceRequest[Any], place: RankEnv, *, labelled: bool) -> Iterator[Opened]:
    """Join the world of a request, load its model and memory-map its data.

    labelled: whether the data must have labels
    """
    torch.manual_seed(0)
    with World.at(place, request.device).joined(TIMEOUT) as world:
        notes: list[str] = []
        model = open_model(request, notes.append)
        data = prepared_for(request, model, world, notes.append, labelled=labelled)
        choose_batches(model.module.to(world.device), model.task, {"data": data}, world, notes.append)
        yield Opened(model, data, world, notes)


def open_model(request: InferenceRequest[Any], say: Callable[[str], object], *, pairs: bool | None = None) -> OpenModel:
    """The model of a folder with its trained head.

    say: called with a note on each change
    pairs: whether samples have a second text; None for whether the request's data have one
    Raises ModelError if it has none.
    """
    pretrained = find_pretrained(request.model)
    card = loading.read_card(Path(pretrained.location))
    task_name = task_of(pretrained, request.model) or DEFAULT_TASK
    config = loading.load_config(pretrained, request.model)
    longest = longest_input(config.to_dict()) if config is not None else None
    length = request.max_length or card.get("max_length") or min(DEFAULT_LENGTH, longest or DEFAULT_LENGTH)
    try:
        train = Train.model_validate({**card.get("train", {}), "max_length": length})
    except ValueError as error:
        raise ModelError(f"{pretrained.location} does not record how its model was trained: {error}") from error
    task_type = task_class(task_name, train.loss.name)
    labels = loading.trained_head(pretrained, config, task_type.auto_class) if task_type.has_classes else ()
    if config is None or (task_type.has_classes and not labels):
        raise ModelError(f"{pretrained.location} has no trained head for {task_name}; fine-tune it first")
    processor = loading.load_processor(pretrained, request.model, task_type.processor_class)
    task = task_type(processor, labels, train)
    loading.configure(task, config)
    loaded = loading.load_finished(pretrained, request.model, task_type.auto_class, labels, config)
    pairs = request.data.column("text_pair") is not None if pairs is None else pairs
    make_ready(loaded, processor, pretrained, pairs=pairs, say=say)
    known_by = identity(task_name, pretrained, request.model)
    return OpenModel(task, task.build(loaded), known_by, label_format_of(pretrained))


def prepared_for(
    request: InferenceRequest[Any],
    model: OpenModel,
    world: World,
    say: Callable[[str], object],
    *,
    labelled: bool = True,
) -> Prepared:
    """The data of a request, prepared for a model; rank 0 prepares, and the others wait for it.

    labelled: whether they must have labels
    say: called with notes on damaged prepared data, and on labels matched with differently spelled ones
    """
    preparer = Preparer(
        task_type=type(model.task),
        processor=model.task.processor,
        identity=model.identity,
        train=model.task.train,
        cache=Path(request.cache),
        progress=lambda done, total: None,
        say=say,
    )
    place = None
    if world.is_first:
        source = read_as(request.data, model.label_format)
        place = str(preparer.prepare(source, model.task.labels, labelled=labelled).folder)
    return Prepared(Path(world.from_first(place) or ""))
