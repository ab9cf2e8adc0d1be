"""Continued pre-training, then the task (DAPT and TAPT; Gururangan et al. 2020, arXiv:2004.10964).

Both phases are steps of one run over one module: those of the first see the target alone and learn its words, those of
the second see the labelled samples. The learning rate's schedule begins anew with the second phase; AdamW's moments
carry over. A checkpoint of either phase goes on where it stood, since the step alone tells the phase.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from launcher.adapt.language import LanguageMethod
from launcher.adapt.method import Seen, StepBatch
from launcher.job.methods import Dapt


class ContinuedPretraining(LanguageMethod):
    """The target's words first, then the task."""

    spec: Dapt

    def terms(self, seen: Seen, parts: Any, batch: StepBatch) -> dict[str, Tensor]:
        """Both in the first phase, in which the task has no labels and gives gradients of zero; then the task alone."""
        if batch.moment.step >= batch.moment.pretraining:
            return {"task": seen.losses}
        return super().terms(seen, parts, batch)
