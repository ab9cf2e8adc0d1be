"""Rules of what chooses the checkpoint and of the verdict."""

from __future__ import annotations

from collections.abc import Iterator

from launcher.job.rules.rule import Rule, TaskRule, Violation
from launcher.job.schema import Job
from launcher.job.sections.evaluation import BASELINE
from launcher.job.sections.tasks import Family

RESERVED = (BASELINE, "before", "pretrained", "result", "constant")
"""Names of the candidates that every verdict may have."""


def _verdict_is_on_sets(job: Job) -> Iterator[Violation]:
    """Every set that the verdict names must be there, and no candidate may have the name of another."""
    verdict, sets = job.verdict, job.data.validation
    fix = f"the sets of data.validation are {', '.join(sets) or 'none'}"
    if not sets:
        for name in ("set", "baseline", "compare", "must_hold", "gate"):
            if getattr(verdict, name):
                yield ("verdict", name), "there is nothing to evaluate on", "add data.validation, labelled samples"
        return
    if verdict.set is not None and verdict.set not in sets:
        yield ("verdict", "set"), f"there is no validation set {verdict.set!r}", fix
    for name in verdict.must_hold:
        if name not in sets:
            yield ("verdict", "must_hold"), f"there is no validation set {name!r}", fix
        elif name == job.verdict_set:
            yield ("verdict", "must_hold"), f"{name} is already the set that has to improve", "remove it"
    for name in verdict.compare:
        if name in RESERVED:
            yield (
                ("verdict", "compare", name),
                f"{name!r} is the name of another model in the comparison",
                "choose another",
            )


def _selection_for_the_target(job: Job) -> Iterator[Violation]:
    """An importance-weighted metric needs a target, and a metric that is a mean over samples."""
    if not job.selects_for_target:
        return
    field = ("validation", "selector")
    if job.data.target is None:
        yield (
            field,
            "importance-weighted needs unlabelled samples of a target",
            "add data.target, or use labelled",
        )
    if not job.data.validation:
        yield field, "importance-weighted needs labelled validation samples of the source", "add data.validation"
    if job.validation.metric not in ("loss", "accuracy"):
        message = f"{job.validation.metric} is not a mean over samples, so it cannot be weighted"
        yield ("validation", "metric"), message, "loss or accuracy, or validation.selector: labelled"


def _selection_weighs_samples_of_one_class(job: Job, family: Family) -> Iterator[Violation]:
    if job.selects_for_target and not family.has_one_class:
        message = "importance-weighted is for classification with one label per sample"
        yield ("validation", "selector"), message, "use labelled"


EVALUATION_RULES: tuple[Rule, ...] = (_verdict_is_on_sets, _selection_for_the_target)
EVALUATION_TASK_RULES: tuple[TaskRule, ...] = (_selection_weighs_samples_of_one_class,)
