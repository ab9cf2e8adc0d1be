"""Adapters: weights that learn beside those of the pretrained model, which stay as they are.

A kind that has other settings is a section of its own, told from these by `kind`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from launcher.job.sections.marks import numbers, report
from launcher.job.sections.section import Fraction, Section


class LowRank(Section):
    """Low-rank adapters beside frozen weights (Hu et al. 2021, arXiv:2106.09685)."""

    kind: Literal["lora", "rslora", "dora"] = numbers(
        asks_model=True,
        description="Each target matrix W stays as it is and gets a trainable product B·A of low rank. So do the head "
        "of a classifier and weights that the pretrained model lacks. lora: B·A counts alpha / rank times. rslora: "
        "alpha / √rank times, so that large ranks learn too (rsLoRA, arXiv:2312.03732). dora: as lora, and the length "
        "of each row of W + B·A learns by itself (DoRA, arXiv:2402.09353): a little better at low ranks, slower, more "
        "memory.",
    )
    rank: PositiveInt = numbers(8, description="Rows of A and columns of B.")
    alpha: PositiveFloat = numbers(16.0, description="How much B·A counts, as `kind` says.")
    dropout: Fraction = numbers(0.0, description="Dropout on what goes into A.")
    targets: Literal["auto"] | Annotated[tuple[str, ...], Field(min_length=1)] = numbers(
        "auto",
        description="auto: every linear layer of the repeated blocks. Or patterns of modules' names, whose first parts "
        "may be left out (`query`, `*.q_proj`, `encoder.layer.0.*`).",
    )
    quantised: Literal[False, "4bit"] = numbers(
        False,
        description="`4bit`: the frozen matrices in 4 bits (QLoRA, arXiv:2305.14314). Needs GPUs and the extra "
        "`adaptrun[quantised]`.",
    )
    merge: bool = report(
        False,
        description="Leave in `model/` the whole model with the adapters added to its weights, and the adapters in "
        "`adapter/`. Without it `model/` is the adapters alone.",
    )

    @property
    def is_rank_stabilised(self) -> bool:
        """Whether the root of the rank is what alpha is divided by."""
        return self.kind == "rslora"

    @property
    def has_magnitudes(self) -> bool:
        """Whether the lengths of rows learn by themselves."""
        return self.kind == "dora"

    @property
    def reads_weights(self) -> bool:
        """Whether they are made of the weights' values: the lengths of rows, or the 4 bits."""
        return bool(self.quantised) or self.has_magnitudes


AnyAdapters = LowRank
"""The section of any kind."""
