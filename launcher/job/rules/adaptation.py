"""Rules of the methods that learn from several sets: which data each needs, and which tasks it is for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from launcher.job.rules.rule import Rule, TaskRule, Violation
from launcher.job.schema import Job
from launcher.job.sections.methods import REHEARSAL
from launcher.job.sections.tasks import FAMILIES, Family, find_family


def _target_is_used(job: Job) -> Iterator[Violation]:
    method, target = job.adapt.method, job.data.target
    if job.adapt.target not in ("none", "where given") and target is None:
        yield ("adapt", "method"), f"{method} learns from unlabelled target data", "add data.target"
    if target is not None and not job.learns_from_target and not job.selects_for_target:
        message = f"{method} does not use unlabelled target data"
        yield ("data", "target"), message, "remove data.target, or select checkpoints with it: validation.selector"


def _target_is_labelled_in_time(job: Job) -> Iterator[Violation]:
    before = job.adapt.epochs_before_target
    if before and job.train.max_steps is None and job.train.epochs <= before:
        message = f"the target would first be labelled after {before} of {job.train.epochs} epochs"
        yield ("adapt", "after_epochs"), message, f"train.epochs: {before + 1}, or more"


def _training_data_are_used(job: Job) -> Iterator[Violation]:
    method = job.adapt.method
    if job.adapt.is_source_free and job.data.train:
        yield ("data", "train"), f"{method} learns without labelled data", "remove data.train, or use another method"
    if not job.adapt.is_source_free:
        yield from _training_data_are_named(job)


def _training_data_are_named(job: Job) -> Iterator[Violation]:
    if not job.data.train:
        fix = ""
        if job.adapt.is_source_free:  # of a job that is only looked at
            fix = "name the data that the model was trained on, to compare the target with: --set data.train=source.csv"
        yield ("data", "train"), "is required and missing", fix


def _selection_knows_the_source(job: Job) -> Iterator[Violation]:
    method = job.adapt.method
    if job.selects_for_target and job.adapt.is_source_free:
        message = f"importance-weighted compares data.train with the target, and {method} has no data.train"
        yield ("validation", "selector"), message, "labelled"


def _options_are_for_the_method(job: Job) -> Iterator[Violation]:
    method = job.adapt.method
    if job.adapt.is_plain:
        return
    reasons = {
        "probe": f"{method} trains the features from the first step on",
        "unfreeze": f"{method} trains the features from the first step on",
        "distill": f"{method} cannot be combined with a distillation loss",
    }
    for name, reason in reasons.items():
        if getattr(job.adapt, name) is not None:
            yield ("adapt", name), reason, f"remove {name}, or method: finetune"


def _mixing_is_used(job: Job) -> Iterator[Violation]:
    mixing, names = job.data.mixing, list(job.data.train)
    if mixing == type(mixing)():
        return
    if len(names) < 2:
        yield (
            ("data", "mixing"),
            "there is only one training set, so there is nothing to mix",
            "remove mixing, or name two sets",
        )
    elif mixing.weights is not None and mixing.alpha != 1.0:
        yield ("data", "mixing", "alpha"), "weights already set the shares", "keep one of the two"
    elif mixing.weights is not None and set(mixing.weights) != set(names):
        message = f"weights are given for {', '.join(mixing.weights)}, and the training sets are {', '.join(names)}"
        yield ("data", "mixing", "weights"), message, "give one weight for each set"


def _groups_are_several(job: Job) -> Iterator[Violation]:
    if job.adapt.groups and len(job.data.train) < 2:
        message = f"{job.adapt.method} weights training sets against each other, and there is only one"
        yield ("adapt", "method"), message, "name several: data.train: {films: films.csv, shops: shops.csv}"


def _rehearsal_has_a_name_of_its_own(job: Job) -> Iterator[Violation]:
    if job.adapt.rehearsed is not None and REHEARSAL in job.data.train:
        yield ("data", "train", REHEARSAL), "adapt.rehearsal already has this name", "rename the training set"


def _target_is_of_no_other_set(job: Job) -> Iterator[Violation]:
    """A model judged on samples that it has seen unlabelled looks better than it is on new ones."""
    target = job.data.target
    if target is None or job.data.allow_leakage or not job.learns_from_target:
        return
    for name, source in job.data.validation.items():
        shared = sorted(set(source.files) & set(target.files))
        if shared and source.split == target.split:
            message = f"{shared[0]} is also data.target, so its metrics say nothing about new samples"
            fix = "move some rows of data.target into a file of their own, or set data.allow_leakage: true"
            yield ("data", "validation", name), message, fix


def _method_is_for_the_task(job: Job, family: Family) -> Iterator[Violation]:
    method, needs, field = job.adapt.method, job.adapt.needs, ("adapt", "method")
    if needs == "classes" and not family.has_one_class:
        message = f"{method} needs one class per sample, and {job.task} has none"
        yield field, message, f"it is for {_families_where(lambda other: other.has_one_class)}"
    elif needs == "features" and not family.has_features:
        message = f"{method} needs one feature vector per sample, and {job.task} has none"
        yield field, message, f"it is for {_families_where(lambda other: other.has_features)}"
    elif needs == "language" and not family.needs_tokenizer:
        yield (
            field,
            f"{method} trains a language model, and {job.task} reads no text",
            "dann, coral and mmd are for images",
        )
    elif needs == "language" and family.learns_language:
        message = f"{method} trains a language model before the task, and {job.task} is one already"
        yield field, message, "method: finetune, with the texts of the target in data.train"
    if job.train.packing and not job.adapt.is_plain:
        yield ("train", "packing"), f"{method} needs each sample by itself", "packing: false"


def _weights_are_of_classes(job: Job, family: Family) -> Iterator[Violation]:
    if job.adapt.is_source_free and job.train.loss.class_weights == "balanced":
        message = f"{job.adapt.method} uses no labels, so there are no class frequencies to balance"
        yield ("train", "loss", "class_weights"), message, "remove it, or give a weight for each label"


def _families_where(fits: Callable[[Family], bool]) -> str:
    *others, last = [name for name in FAMILIES if fits(find_family(name))]
    return f"{', '.join(others)} and {last}"


DOMAIN_RULES: tuple[Rule, ...] = (
    _mixing_is_used,
    _groups_are_several,
    _rehearsal_has_a_name_of_its_own,
    _selection_knows_the_source,
    _options_are_for_the_method,
)
TRAINING_RULES: tuple[Rule, ...] = (
    _target_is_labelled_in_time,
    _target_is_used,
    _training_data_are_used,
    _target_is_of_no_other_set,
)
"""Of a job that trains."""
LOOKING_RULES: tuple[Rule, ...] = (_training_data_are_named,)
"""Of a job that is only looked at: whatever its method uses, other sets are compared with the training data."""
DOMAIN_TASK_RULES: tuple[TaskRule, ...] = (
    _method_is_for_the_task,
    _weights_are_of_classes,
)
