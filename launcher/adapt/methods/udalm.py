"""UDALM (Karouzos et al. 2021, arXiv:2104.07078): λ · source task loss + (1 − λ) · masked language modelling on target.

λ is the source's share of all samples, n_s / (n_s + n_t), as in the paper, or set in the job. The paper begins with a
phase of masked language modelling alone, which is `method: dapt`; a run may start from the model of such a run.
"""

from __future__ import annotations

from launcher.adapt.methods.language import LanguageMethod
from launcher.adapt.methods.method import StepInfo
from launcher.job.sections.methods import Udalm


class MixedLanguage(LanguageMethod):
    """Both losses in each step."""

    spec: Udalm

    def coefficients(self, moment: StepInfo) -> dict[str, float]:
        """λ and 1 − λ."""
        labelled = sum(self.sets.values())
        share = labelled / (labelled + self.target) if self.spec.source_share == "auto" else self.spec.source_share
        return {"task": share, "language": 1 - share}
