"""What is wrong with a job, before it is started: in its file at once, with the modules of its model in seconds."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from launcher.data.columns import check_columns, left_out_of
from launcher.data.label_vectors import hint_at_vectors, read_as
from launcher.data.labels import decide_labels, find_label, head_names, listed, output_names
from launcher.data.sources import is_local
from launcher.errors import DataError, RunFailed
from launcher.job.pretrained import Pretrained, find_pretrained, read_config
from launcher.job.reading.job_file import load_job
from launcher.job.reading.paths import taken_for_hub_ids
from launcher.job.requests import ModelCheckRequest, PlannedRun
from launcher.job.schema import Job
from launcher.job.sections.data import Source
from launcher.job.sections.marks import changed_fields, values_that
from launcher.job.sections.tasks import FAMILIES, Family, find_family
from launcher.job.vocabulary import check_vocabulary
from launcher.measure.quality.label_sets import LabelSet, label_format, named_outputs, read_label_set
from launcher.plan.engines import named_engine
from launcher.plan.plan import Plan
from launcher.run.folder import RunFolder, temporary_folder
from launcher.supervise.failure import RankFailed
from launcher.supervise.requests import ask_ranks

ROWS_LOOKED_AT = 10_000
"""Of each data set, to show its labels."""


def check_job_file(file: Path, sets: Sequence[str], as_json: bool) -> None:
    """Say what a sound job file means. Raises RequestError with what is wrong with it, or with the files it names."""
    job = load_job(file, sets)
    engine = named_engine(job)
    if engine is not None:
        engine.check(job, file)
    check_columns(job)
    pretrained, family = find_pretrained(job.model), find_family(job.task, loss=job.train.loss.name)
    if family.needs_tokenizer:
        check_vocabulary(pretrained)
    labels = list(_label_sets(job, family, pretrained))
    if as_json:
        print(json.dumps(job.as_dict(), indent=2))
        return
    for place in taken_for_hub_ids(job):
        print(f"{place}: no such file or folder here, so it is read as an id of the Hugging Face hub")
    for line in (*left_out_of(job), *labels):
        print(line)
    print(f"{file}: no problem found")


def _label_sets(job: Job, family: Family, pretrained: Pretrained) -> Iterator[str]:
    """The labels of each set that lies here with samples of each, and how they fit a trained head.

    Raises DataError for labels that cannot be read, ModelError if the label's output of the head is ambiguous.
    """
    if not family.has_classes or job.task not in FAMILIES:
        return
    config = read_config(pretrained) or {}
    outputs = named_outputs(job) if isinstance(job.model.labels, str) else ()
    form = label_format(job, family, ROWS_LOOKED_AT)
    sources = {".".join(job.data.place_in_train(name)): source for name, source in job.labelled_sets.items()}
    held_out = {".".join(job.data.place_in_validation(name)): source for name, source in job.data.validation.items()}

    def read(named: Mapping[str, Source], outputs: Sequence[str]) -> dict[str, LabelSet]:
        return {
            name: read_label_set(name, read_as(source, form), family, outputs, at_most=ROWS_LOOKED_AT, strictly=True)
            for name, source in named.items()
            if all(is_local(place) for place in source.files)
        }

    sets = read(sources, outputs)
    labels: tuple[str, ...] = ()
    notes: list[str] = []
    architectures, named = config.get("architectures"), config.get("id2label")
    is_built = pretrained.builder is not None
    head = output_names(named) if is_built else head_names(architectures, named, family.auto_class)
    if sources and all(name in sets and sets[name].whole for name in sources):
        occurring = sorted({label for found in sets.values() for label in found.places or found.counts})
        decided = decide_labels(head, occurring, job.model.labels)
        labels, notes = decided.labels, decided.notes()
    judged = read(held_out, labels or outputs)
    for found in (sets | judged).values():
        yield from found.lines()
    if architectures and not head:
        yield f"{pretrained.location} has no trained head for {job.task}: a new one is initialised at random"
    yield from notes
    for name, found in judged.items():
        if labels:
            _check_known(name, found, labels)


def _check_known(place: str, found: LabelSet, labels: Sequence[str]) -> None:
    """Raises DataError for a label of a validation set that training does not know."""
    known = {*labels}
    unknown = [label for label in found.counts if label not in known and find_label(labels, label) is None]
    if unknown:
        raise DataError(
            place,
            f"the labels {listed(unknown)} do not occur in the training data, which has {listed(labels)}; correct "
            f"them, or add training samples of them{hint_at_vectors(unknown)}",
        )


def check_models(planned: Sequence[tuple[str, Job, Plan]]) -> None:
    """Ask a process that may import torch whether jobs can be had with the modules of their models.

    Only those are asked about whose options depend on that, since the import takes seconds.

    planned: each with what tells it from the others, empty where there is one
    Raises RequestError, Stopped.
    """
    asked: dict[str, tuple[str, Job, Plan]] = {}
    for name, job, plan in planned:
        if _asks_for_modules(job):
            asked.setdefault(_what_matters(job, plan), (name, job, plan))
    if not asked:
        return
    try:
        with temporary_folder() as folder:
            runs = []
            for number, (name, job, plan) in enumerate(asked.values()):
                run = RunFolder(folder.path / str(number))
                run.path.mkdir()
                run.write_job(job)
                run.write_plan(plan)
                runs.append(PlannedRun(name, run.path.name))
            request = ModelCheckRequest(folder=str(folder.path), planned=tuple(runs))
            ask_ranks(request, stopped="stopped; nothing was created or queued")
    except RunFailed as error:  # nothing is wrong with the request for all that is known
        reason = str(error)
        if isinstance(error, RankFailed):
            reason = f"{error.failure.error}: {error.failure.message} (more in {error.folder.failure_file})"
        print(f"the model could not be checked here, the run will check it: {reason}", file=sys.stderr)


def _asks_for_modules(job: Job) -> bool:
    """Whether something that the job asks for can be had with some models and not with others."""
    if job.adapt.reads_weights:
        return False  # all of them would be read
    return job.adapt.asks_model or any(mark.asks_model for _, _, mark in changed_fields(job))


def _what_matters(job: Job, plan: Plan) -> str:
    """The same for jobs of which one answer is that of the other, such as those that differ in the seed."""
    asked = {
        "model": values_that("numbers", job.model),
        "task": job.task,
        "adapt": values_that("numbers", job.adapt),
        "train": [values_that("data", job.train), values_that("measurement", job.train), job.train.packing],
        "options": {path: getattr(section, path[-1]) for path, section, mark in changed_fields(job) if mark.asks_model},
    }
    return f"{asked} {bool(job.labelled_sets)} {plan.total_steps}"
