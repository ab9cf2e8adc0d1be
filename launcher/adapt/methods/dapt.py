"""Continued pre-training, then the task (DAPT and TAPT; Gururangan et al. 2020, arXiv:2004.10964).

Both phases are steps of one run over one module: those of the first see the target alone and learn its words, those of
the second see the labelled samples. The learning rate's schedule begins anew with the second phase; AdamW's moments
carry over. A checkpoint of either phase goes on where it stood, since the step alone tells the phase.
"""

from __future__ import annotations

from launcher.adapt.methods.language import LanguageMethod
from launcher.job.sections.methods import Dapt


class ContinuedPretraining(LanguageMethod):
    """The target's words first, then the task: which of them a step's batch holds is decided where it is drawn.

    In each phase the other head has gradients of zero. It is computed all the same, on as little as can be, since
    engines treat a parameter that has no gradient differently.
    """

    spec: Dapt
