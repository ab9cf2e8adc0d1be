"""The number of parameters trained with adapters, from the shapes of a model's matrices or from its config."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from math import prod
from typing import Any

from launcher.job.sections.adapters import IN_A_REPEATED_BLOCK, AdapterKind, is_meant

NO_LINEAR_LAYERS = ("embed", "position", "relative_attention_bias", ".experts.", "shared.")
"""Parts of the names of matrices that are embeddings, or that are stacked into one tensor when they are loaded."""
TRANSPOSED = ("gpt2", "openai-gpt", "imagegpt")
"""Models whose linear layers are stored [inputs, outputs]."""
HEADS = ("classifier", "score", "pre_classifier", "classification_head", "head", "projector", "qa_outputs")
"""Names in `transformers` of the modules that a classifier adds to its base model."""
DENSE_HEADS = (
    *("roberta", "xlm-roberta", "camembert", "data2vec-text", "longformer", "mpnet", "electra", "distilbert"),
    *("deberta", "deberta-v2", "modernbert"),
)
"""Models whose classifiers have a square matrix before the last one."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class AdapterSize:
    """What is trained in addition to frozen weights.

    rank: of each pair of A and B; 0 without any
    inputs, outputs: summed over all target matrices; magnitudes: DoRA's, one per output
    head: parameters of the head, which is trained whole; `new_head` of them are not in the model's files
    labels: rows of the head's last matrix; hidden: their length
    drops: whether there is dropout before A
    trained: pretrained parameters that are trained themselves, without the head's
    unmatched: patterns that match no matrix
    """

    rank: int
    inputs: int
    outputs: int
    magnitudes: int
    head: int = 0
    new_head: int = 0
    labels: int = 0
    hidden: int = 0
    drops: bool = False
    trained: int = 0
    unmatched: tuple[str, ...] = ()

    @property
    def added(self) -> int:
        """Number of parameters that the pretrained model does not have."""
        return self.rank * (self.inputs + self.outputs) + self.magnitudes + self.new_head

    @property
    def learning(self) -> int:
        """Number of trained parameters, which have a gradient and moments."""
        return self.added + self.head - self.new_head + self.trained

    @property
    def is_beside_base(self) -> bool:
        """Whether adapters are added to layers, so that the result is adapters rather than a whole model."""
        return self.inputs > 0

    @property
    def narrow(self) -> tuple[tuple[int, int], ...]:
        """(rows, elements) of tensors with too few rows to shard evenly: all A, and the head's last matrix."""
        found = (self.rank, self.rank * self.inputs), (self.labels, self.labels * self.hidden)
        return tuple((rows, elements) for rows, elements in found if elements)


def linear_layers(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """The matrices of linear layers by layer name, without embeddings and heads."""
    return {
        name.removesuffix(".weight"): shape
        for name, shape in shapes.items()
        if name.endswith(".weight") and len(shape) == 2 and not is_head(name)
        if not any(part in name for part in NO_LINEAR_LAYERS)
    }


def in_blocks(layers: Iterable[str]) -> set[str]:
    """The layers in repeated blocks."""
    return {name for name in layers if IN_A_REPEATED_BLOCK.search(name)}


def is_head(name: str) -> bool:
    """Whether a tensor of a file belongs to a module outside the base model."""
    return name.partition(".")[0] in HEADS


def from_shapes(
    spec: AdapterKind, shapes: Shapes, config: Mapping[str, Any], hidden: int, learns_head: bool
) -> AdapterSize:
    """Counted from the tensors of the model's files."""
    layers = linear_layers(shapes)
    patterns = () if spec.layers == "auto" else spec.layers
    targets = {name for name in layers if any(_means(pattern, name) for pattern in patterns)}
    targets = in_blocks(layers) if spec.layers == "auto" else targets
    inputs = sum(layers[name][1] for name in targets)
    outputs = sum(layers[name][0] for name in targets)
    if config.get("model_type") in TRANSPOSED:
        inputs, outputs = outputs, inputs
    kept = sum(prod(shape) for name, shape in shapes.items() if is_head(name)) if learns_head else 0
    trained = sum(prod(shape) for name, shape in shapes.items() if not is_head(name) and spec.trains(name))
    sized = _sized(
        spec,
        inputs,
        outputs,
        config,
        hidden if learns_head else 0,
        kept,
        tuple(pattern for pattern in patterns if not any(_means(pattern, name) for name in layers)),
    )
    return replace(sized, trained=trained)


def from_config(
    spec: AdapterKind, config: Mapping[str, Any], shape: Mapping[str, Any], queries: int, keys: int, learns_head: bool
) -> AdapterSize:
    """Counted from a config: the usual matrices of a transformer under their usual names.

    shape: layers, hidden, intermediate and is_gated; queries, keys: outputs of the attention's matrices
    """
    hidden, inner = shape["hidden"], shape["intermediate"]
    matrices = [
        (("q_proj", "query"), hidden, queries),
        (("k_proj", "key"), hidden, keys),
        (("v_proj", "value"), hidden, keys),
        (("o_proj", "dense"), queries, hidden),
        (("up_proj", "dense"), hidden, inner),
        (("down_proj", "dense"), inner, hidden),
        *([(("gate_proj",), hidden, inner)] if shape["is_gated"] else []),
    ]
    lasts = [pattern.rpartition(".")[2] for pattern in spec.layers if spec.layers != "auto"]
    taken = [
        (before, after)
        for names, before, after in matrices
        if spec.layers == "auto" or any(fnmatch(name, last) for name in names for last in lasts)
    ]
    inputs, outputs = (shape["layers"] * sum(sizes) for sizes in (zip(*taken, strict=True) if taken else ((), ())))
    return _sized(spec, inputs, outputs, config, hidden if learns_head else 0, 0, ())


def _sized(
    spec: AdapterKind,
    inputs: int,
    outputs: int,
    config: Mapping[str, Any],
    hidden: int,
    kept_head: int,
    unmatched: tuple[str, ...],
) -> AdapterSize:
    """hidden: width of the head, 0 if no head is trained; kept_head: parameters of it that are in the files."""
    names, added = config.get("id2label"), spec.added_to_layer
    labels = len(names) if isinstance(names, dict) else 2  # the default of `transformers`; the data may have more
    dense = hidden * (hidden + 1) if config.get("model_type") in DENSE_HEADS else 0
    new = 0 if kept_head or not hidden else labels * (hidden + 1) + dense
    return AdapterSize(
        rank=added.rank,
        inputs=inputs,
        outputs=outputs,
        magnitudes=outputs if added.magnitudes else 0,
        head=kept_head + new,
        new_head=new,
        labels=labels if hidden else 0,
        hidden=hidden,
        drops=added.drops,
        unmatched=unmatched,
    )


def _means(pattern: str, name: str) -> bool:
    """Whether a pattern matches a layer; names in a file may lack the prefix of the whole model's names."""
    return is_meant(name, pattern) or fnmatch(name, pattern.partition(".")[2])
