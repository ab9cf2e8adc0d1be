"""Samples per epoch and per step, and the steps of a run: what plan and ranks must agree on."""

from __future__ import annotations

from math import ceil

from launcher.job.schema import Job


def draws_an_epoch(job: Job, training: int) -> int:
    """Samples per epoch: the `training` samples, and the rehearsed ones in addition to them.

    training: number of samples of all training sets, or of the target for a method that needs no labels
    """
    return ceil(training / (1 - job.adapt.rehearsed_share))


def pretraining_steps(job: Job, target: int) -> int:
    """Steps on the `target` samples before the supervised ones."""
    pretraining = job.adapt.pretraining
    if pretraining is None:
        return 0
    steps = pretraining.epochs * ceil(target / job.train.global_batch_size)
    return steps if pretraining.max_steps is None else min(steps, pretraining.max_steps)


def target_batch(job: Job) -> int:
    """Target samples of a step, in addition to the labelled ones."""
    if not job.sees_target_alongside:
        return 0
    asked = getattr(job.adapt, "target_batch_size", "auto")
    return job.train.global_batch_size if asked == "auto" else int(asked)
