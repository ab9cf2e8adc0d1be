"""How many samples an epoch and a step draw, and how many steps a run has: what plan and ranks must agree on."""

from __future__ import annotations

from math import ceil

from launcher.job.schema import Job


def draws_an_epoch(job: Job, training: int) -> int:
    """Samples that an epoch draws; of `training` samples, and of the rehearsed ones beside them.

    training: samples of all training sets, or of the target where a method needs no labels
    """
    return ceil(training / (1 - job.adapt.rehearsed_share))


def pretraining_steps(job: Job, target: int) -> int:
    """Steps over the `target` samples before the supervised ones."""
    pretraining = job.adapt.pretraining
    if pretraining is None:
        return 0
    steps = pretraining.epochs * ceil(target / job.train.global_batch_size)
    return steps if pretraining.max_steps is None else min(steps, pretraining.max_steps)


def target_batch(job: Job) -> int:
    """Target samples that a step sees beside the labelled ones."""
    if not job.sees_target_alongside:
        return 0
    asked = getattr(job.adapt, "target_batch_size", "auto")
    return job.train.global_batch_size if asked == "auto" else int(asked)
