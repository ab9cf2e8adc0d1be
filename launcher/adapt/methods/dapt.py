"""Continued pre-training, then the task (DAPT and TAPT; Gururangan et al. 2020, arXiv:2004.10964).

Both phases are steps of one run over one module. The first trains a language model on the target, the second trains the
task on the labelled samples. The learning rate schedule restarts with the second phase; AdamW's moments carry over. A
checkpoint of either phase resumes correctly, since the step determines the phase.
"""

from __future__ import annotations

from launcher.adapt.methods.language import LanguageMethod
from launcher.job.sections.methods import Dapt


class ContinuedPretraining(LanguageMethod):
    """Language modelling on the target first, then the task; the stages of the run decide which samples a step gets.

    In each phase the other head has gradients of zero. It is still computed, on as little input as possible, since
    engines treat parameters without a gradient differently.
    """

    spec: Dapt
