"""The inputs of a run: the processor, the task with its label set, the prepared data, the pretrained model."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from launcher.adapt.adapters.adapters import Adapters
from launcher.data.cache import tokenizer_identity
from launcher.data.label_vectors import read_as
from launcher.data.labels import unless_unnamed
from launcher.data.pool import Pool
from launcher.data.prepared import Prepared
from launcher.errors import ModelError
from launcher.job.own_files import with_imports
from launcher.job.pretrained import Pretrained, find_pretrained, label_format_of, longest_input, verify_alias
from launcher.job.reading.paths import too_long
from launcher.job.schema import Job, Model
from launcher.job.sections.data import LabelFormat
from launcher.job.sections.marks import values_that
from launcher.job.sections.tasks import FAMILIES, find_family
from launcher.job.trust import notices_of_code
from launcher.job.vocabulary import embeddings_of
from launcher.models import task_class
from launcher.models.parts.ready import make_ready
from launcher.models.tasks.base import Task
from launcher.models.weights import loading
from launcher.models.weights.heads import named_outputs
from launcher.run.events import EventLog, Phase, Progress
from launcher.run.folder import RunFolder, read_json, write_whole
from launcher.worker.data.leakage import check_leakage
from launcher.worker.data.preparing import Preparer
from launcher.worker.rank.run_context import RunContext

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class Inputs:
    """All inputs except the weights.

    train: the labelled sets; none for a method that needs no labels
    target: unlabelled samples, for methods that train on them or for checkpoint selection
    """

    pretrained: Pretrained
    config: PretrainedConfig | None
    task: Task
    train: Pool
    validation: dict[str, Prepared]
    target: Prepared | None = None

    @property
    def sets(self) -> dict[str, Prepared]:
        """All prepared sets."""
        named = {f"train {name}": data for name, data in self.train.sets.items()} | self.validation
        return named if self.target is None else {**named, "target, unlabelled": self.target}

    @property
    def _label_format(self) -> LabelFormat:
        """How the labels were read, which applies to other data too."""
        data = next(iter((*self.train.sets.values(), *self.validation.values())), None)
        return "auto" if data is None else data.facts.label_format

    def card(self, job: Job, adapters: Adapters | None) -> dict[str, Any]:
        """The card of the model folder, in addition to the standard files."""
        card = {
            "task": job.task,
            "max_length": job.train.max_length,
            "train": values_that("measurement", job.train),
            "function": self.pretrained.builder,
            "label_format": self._label_format,
        }
        if adapters is None or adapters.config is None or job.adapt.adapters is None:
            return card
        base = values_that("measurement", job.model) | {"identity": adapters.base}
        return card | {"base": base, "merge": job.adapt.adapters.is_merged}


def open_inputs(context: RunContext) -> Inputs:
    """Locate the model, and prepare the data or map what another process prepared."""
    job, folder = context.job, context.folder
    context.enter("preparing")
    if context.world.is_first and read_json(folder.prepared_file) is None:
        prepare(job, folder, context.log)
    prepared = _wait_for(folder.prepared_file)
    pretrained = find_pretrained(job.model)
    task_type = task_class(job.task, job.train.loss.name)
    processor = loading.load_processor(pretrained, job.model, task_type.processor_class)
    train, validation = (
        {name: Prepared(Path(place)) for name, place in prepared[kind].items()} for kind in ("train", "validation")
    )
    target = None if prepared["target"] is None else Prepared(Path(prepared["target"]))
    pool = Pool(train)
    labels = pool.labels if train or target is None else target.facts.labels
    return Inputs(
        pretrained=pretrained,
        config=loading.load_config(pretrained, job.model),
        task=task_type(processor, labels, job.train, pool.counts),
        train=pool,
        validation=validation,
        target=target,
    )


def prepare(job: Job, folder: RunFolder, log: EventLog) -> None:
    """Prepare every set of the job and record its folder. Raises DataError, LeakageError and ModelError."""
    found = prepare_sets(job, log)
    target = None
    if job.data.target is not None:
        log.write(Phase(name="preparing", detail="target"))
        target = found.preparer.prepare(job.data.target, found.labels, labelled=False)
    check_leakage(job, found.train, target if job.learns_from_target else None, found.validation, log)
    sets = {"train": found.train.sets, "validation": found.validation}
    places = {kind: {name: str(data.folder) for name, data in named.items()} for kind, named in sets.items()}
    write_whole(folder.prepared_file, json.dumps({**places, "target": None if target is None else str(target.folder)}))


@dataclass(frozen=True)
class PreparedSets:
    """The labelled sets of a job, and their preparer.

    train: the labelled training sets; possibly none
    labels: the label set, which all share
    """

    preparer: Preparer
    train: Pool
    labels: tuple[str, ...]
    validation: dict[str, Prepared]


def prepare_sets(job: Job, log: EventLog) -> PreparedSets:
    """The training and validation sets, from the cache or prepared now. Raises DataError and ModelError."""
    for note in notices_of_code(job.model.trust_code):
        log.note(note)
    verify_alias(job.model)
    pretrained = find_pretrained(job.model)
    config = loading.load_config(pretrained, job.model)
    task_type = task_class(job.task, job.train.loss.name)
    head = loading.trained_head(pretrained, config, task_type.auto_class)
    known = unless_unnamed(head)
    processor = loading.load_processor(pretrained, job.model, task_type.processor_class)
    if config is not None:
        loading.check_vocabulary(processor, embeddings_of(config.to_dict()), pretrained.tokenizer)
    preparer = Preparer(
        task_type=task_type,
        processor=processor,
        identity=identity(job.task, pretrained, job.model),
        train=job.train,
        cache=Path(job.data.cache),
        progress=lambda done, total: log.write(Progress(done=done, total=total, unit="samples")),
        say=log.note,
    )
    log.write(Phase(name="preparing", detail="train"))
    train = preparer.prepare_training(job.labelled_sets, head, job.model.labels, named_outputs(config))
    check_labels(job, pretrained, task_type, known)
    labels, label_format = known, label_format_of(pretrained)
    for prepared in train.values():
        labels, label_format = prepared.facts.labels, prepared.facts.label_format
    validation = {}
    for name, source in job.data.validation.items():
        log.write(Phase(name="preparing", detail=name))
        validation[name] = preparer.prepare(read_as(source, label_format), labels)
    return PreparedSets(preparer, Pool(train), tuple(labels), validation)


def check_labels(job: Job, pretrained: Pretrained, task_type: type[Task], known: Sequence[str]) -> None:
    """Raises ModelError if neither the samples nor the model (`known`) define the classes."""
    if task_type.has_classes and not job.labelled_sets and not known:
        raise ModelError(
            f"{pretrained.location} has no trained head with named labels, and {job.adapt.method} adapts "
            "a trained model; set model.pretrained to a finished run"
        )


def identity(task: str, pretrained: Pretrained, model: Model) -> str:
    """Identity of a task's own code and of a processor."""
    files = [] if task in FAMILIES else with_imports(find_family(task).place[0])
    own = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest() if files else ""
    return own + tokenizer_identity(pretrained.tokenizer, model.revision)


def load_model(context: RunContext, inputs: Inputs, *, in_parts: bool) -> loading.Loaded:
    """The pretrained model for the job, with notes on its new and its ignored weights.

    in_parts: leave the weights in their files, so that each rank reads its own shard
    """
    context.enter("loading", inputs.pretrained.location)
    job, pretrained, task = context.job, inputs.pretrained, inputs.task
    loaded = pretrained_model(job, pretrained, inputs.config, task, in_parts=in_parts, say=context.log.note)
    if in_parts and not loaded.stored:
        context.log.note("each rank loads the whole model first, since its weights cannot be read in parts")
    for note in () if loaded.labels is None else loaded.labels.notes():
        context.log.note(note)
    for names, text in ((loaded.new, "new weights, initialised at random"), (loaded.left_out, "ignored")):
        if names:
            context.log.note(f"{text}: {', '.join(names)}")
    return loaded


def pretrained_model(
    job: Job,
    pretrained: Pretrained,
    config: PretrainedConfig | None,
    task: Task,
    *,
    in_parts: bool,
    say: Callable[[str], object],
) -> loading.Loaded:
    """The pretrained model with a head for the task's labels; new weights are the same on every rank.

    in_parts: leave the weights in their files, and read only the headers
    say: called with a note on each change
    Raises ModelError if it does not support what the job requests.
    """
    torch.manual_seed(job.train.seed)
    if config is not None:
        loading.configure(task, config)
    loaded = loading.load_model(pretrained, job.model, task.auto_class, task.labels, config, in_parts=in_parts)
    sources = [*job.labelled_sets.values(), *job.data.validation.values()]
    pairs = any(source.column("text_pair") is not None for source in sources)
    make_ready(loaded.model, task.processor, pretrained, pairs=pairs, say=say)
    loading.freeze(loaded.model, job.model.frozen)
    longest = longest_input(loaded.model.config.to_dict())
    if longest is not None and job.train.max_length > longest:
        path, message, fix = too_long(job, longest)
        raise ModelError(f"{'.'.join(path)}: {message}; set {fix}")
    if job.train.activation_checkpointing:
        if not loaded.model.supports_gradient_checkpointing:
            raise ModelError(
                f"{type(loaded.model).__name__} does not support activation checkpointing; set "
                "train.activation_checkpointing: false"
            )
        loaded.model.gradient_checkpointing_enable({"use_reentrant": False})
    return loaded


def _wait_for(file: Path, pause: float = 0.2, sleep: Callable[[float], None] = time.sleep) -> dict[str, Any]:
    """Wait without a collective, which would time out: a large data set takes long to prepare.

    If a rank fails to prepare, it exits, and the launcher then ends the ranks that wait.
    """
    while (prepared := read_json(file)) is None:
        sleep(pause)
    return prepared
