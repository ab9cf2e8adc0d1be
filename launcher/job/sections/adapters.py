"""Adapters: the few weights that learn while those of the pretrained model are frozen.

A kind with other settings is a section of its own, selected by `kind`.
"""

from __future__ import annotations

import re
from fnmatch import fnmatch
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, PositiveFloat, PositiveInt

from launcher.job.sections.marks import numbers, report
from launcher.job.sections.section import Fraction, Section

IN_A_REPEATED_BLOCK = re.compile(r"(^|\.)\d+\.")
"""Of the name of a module or a parameter."""
Layers = Literal["auto"] | tuple[str, ...]
"""Linear layers: `auto` for all of the repeated blocks, or patterns of modules' names."""


def is_meant(name: str, pattern: str) -> bool:
    """Whether a pattern of `Layers` means a module, whose first names may be left out."""
    return fnmatch(name, pattern) or fnmatch(name, f"*.{pattern}")


class AddedToLayer(NamedTuple):
    """What is added to each of the layers.

    rank: of two matrices between inputs and outputs; 0 for none
    magnitudes: whether each output gets a number
    drops: whether there is dropout on the inputs
    """

    rank: int = 0
    magnitudes: bool = False
    drops: bool = False


class AdapterKind(Section):
    """What is asked of every kind. As it stands it adds nothing to the model, and the result is a whole model."""

    kind: str = numbers(description="What learns.")

    @property
    def layers(self) -> Layers:
        """The linear layers that something is added to."""
        return ()

    @property
    def added_to_layer(self) -> AddedToLayer:
        """What that is, for the plan."""
        return AddedToLayer()

    def trains(self, name: str) -> bool:
        """Whether a parameter of the pretrained model learns too, for the plan; those of the head are not asked for."""
        return False

    @property
    def adds_weights(self) -> bool:
        """Whether the result is what was added, alongside a base that stays as it is."""
        return self.layers != ()

    @property
    def is_merged(self) -> bool:
        """Whether what was added becomes a part of the base's weights in the end."""
        return False

    @property
    def is_quantised(self) -> bool:
        """Whether frozen weights are held in 4 bits."""
        return False

    @property
    def reads_weights(self) -> bool:
        """Whether they are made of the weights' values."""
        return False


class LowRank(AdapterKind):
    """Low-rank adapters of frozen weights (Hu et al. 2021, arXiv:2106.09685)."""

    kind: Literal["lora", "rslora", "dora"] = numbers(
        asks_model=True,
        description="Each target matrix W is frozen and gets a trainable product B·A of low rank. The "
        "head of a classifier and weights that the pretrained model lacks are trained as well. lora: B·A "
        "is scaled by alpha / rank. rslora: by alpha / √rank, so that large ranks learn too (rsLoRA, "
        "arXiv:2312.03732). dora: as lora, with a trainable magnitude of each row of W + B·A (DoRA, "
        "arXiv:2402.09353): a little better at low ranks, slower, more memory.",
    )
    rank: PositiveInt = numbers(8, description="Rows of A and columns of B.")
    alpha: PositiveFloat = numbers(16.0, description="Scale of B·A, divided as `kind` says.")
    dropout: Fraction = numbers(0.0, description="Dropout on the input of A.")
    targets: Literal["auto"] | Annotated[tuple[str, ...], Field(min_length=1)] = numbers(
        "auto",
        description="auto: every linear layer of the repeated blocks. Or patterns of module names, whose "
        "first parts may be left out (`query`, `*.q_proj`, `encoder.layer.0.*`).",
    )
    quantised: Literal[False, "4bit"] = numbers(
        False,
        description="`4bit`: the frozen matrices in 4 bits (QLoRA, arXiv:2305.14314). Needs GPUs and the extra "
        "`adaptrun[quantised]`.",
    )
    merge: bool = report(
        False,
        description="true: `model/` is the whole model with the adapters merged into its weights, and "
        "`adapter/` the adapters. false: `model/` is the adapters alone.",
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
    def layers(self) -> Layers:
        """The targets."""
        return self.targets

    @property
    def added_to_layer(self) -> AddedToLayer:
        """A and B, and with DoRA the lengths of rows."""
        return AddedToLayer(self.rank, self.has_magnitudes, self.dropout > 0)

    @property
    def is_merged(self) -> bool:
        """As the job says."""
        return self.merge

    @property
    def is_quantised(self) -> bool:
        """As the job says."""
        return bool(self.quantised)

    @property
    def reads_weights(self) -> bool:
        """For the lengths of rows, or the 4 bits."""
        return self.is_quantised or self.has_magnitudes


AnyAdapters = LowRank
"""The section of any kind. Of several: `Annotated[LowRank | Another, Field(discriminator="kind")]`."""
OFFERED = LowRank(kind="lora")
"""The adapters that `plan` offers where a job does not fit."""
