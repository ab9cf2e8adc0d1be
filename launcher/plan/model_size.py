"""The size of a model, from the headers of its files and its config: no weights are read.

If only a config is available, a formula counts the parameters of known families. Any other model is built on the meta
device in a separate process, which takes some seconds to import `transformers`.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from math import ceil, prod
from pathlib import Path
from typing import Any

from launcher.job.model_files import headers_of, safetensors_files
from launcher.job.pretrained import Pretrained, find_pretrained, read_config
from launcher.job.requests import ShapesRequest, rank_command
from launcher.job.schema import Job
from launcher.job.sections.adapters import AnyAdapters
from launcher.job.sections.tasks import find_family
from launcher.plan.adapter_size import AdapterSize, Shapes, from_config, from_shapes, in_blocks, linear_layers

FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
DROPPED_HEADS = ("lm_head.",)
"""Weights of the file that a classifier does not load, and that are too large to be counted with the rest."""
GATED = ("silu", "swish", "geglu", "swiglu", "gelu_pytorch_tanh")
"""Activations of models whose feed-forward layer has a gate, a third matrix."""
COUNTED = (
    *("bert", "bert-generation", "bloom", "camembert", "codegen", "cohere", "data2vec-text", "deberta", "deberta-v2"),
    *("distilbert", "ernie", "ernie4_5", "gemma", "glm", "glm4", "gpt2", "gpt_bigcode", "gpt_neox", "gptj", "granite"),
    *("internlm3", "llama", "megatron-bert", "mistral", "mpnet", "mpt", "nystromformer", "olmo", "olmo2", "openai-gpt"),
    *("opt", "phi", "phi3", "qwen2", "qwen3", "roberta", "roberta-prelayernorm", "roformer", "smollm3", "stablelm"),
    *("xlm-roberta", "xlm-roberta-xl"),
)
"""Types of models whose parameters the formula counts within 2 %; tests/plan/test_model_size.py compares each."""
SECONDS_TO_BUILD = 120.0


@dataclass(frozen=True)
class ModelSize:
    """The sizes that determine the memory of training.

    parameters: all of them; frozen: those that are not trained; largest: those of the largest tensor
    block: parameters of one repeated layer; outside: of all modules outside these, such as embeddings
    layers, hidden, intermediate, heads: from the config; 0 if it does not have them
    vocabulary: logits per token; 0 for models without a language model head
    patches: tokens of an image; 0 for texts, whose length is in the job
    is_gated: whether a feed-forward layer has three matrices instead of two
    is_estimated: whether it was counted from the config, since the files are not local
    adapters: what is trained in addition to frozen weights; included in the counts
    in_4_bits: parameters that are held in 4 bits each
    """

    parameters: int
    largest: int
    block: int
    layers: int = 0
    hidden: int = 0
    intermediate: int = 0
    heads: int = 0
    is_gated: bool = False
    is_estimated: bool = False
    frozen: int = 0
    adapters: AdapterSize | None = None
    in_4_bits: int = 0
    vocabulary: int = 0
    patches: int = 0
    outside: int = 0

    @property
    def learning(self) -> int:
        """Number of trained parameters, which have a gradient and moments."""
        return self.parameters - self.frozen

    def share(self, of: int, ranks: int) -> int:
        """The most of `of` parameters, trained ones included, that a rank has if tensors are sharded by rows."""
        narrow = () if self.adapters is None else self.adapters.narrow
        uneven = sum(elements for _, elements in narrow)
        dealt = sum(ceil(rows / ranks) * elements // rows for rows, elements in narrow)
        return ceil((of - uneven) / ranks) + dealt


def size_of_job(job: Job) -> ModelSize | None:
    """The size of the job's model, including what its method adds; None if it is not known on this machine."""
    try:
        with_lm_head = (find_family(job.task).auto_class or "").endswith("LM")
        learns_head = job.adapt.trains_head and not with_lm_head
        pretrained, adapters = find_pretrained(job.model), job.adapt.adapters
        size = find_model_size(
            pretrained, job.model.frozen, adapters, with_lm_head=with_lm_head, learns_head=learns_head
        )
    except (OSError, ValueError, KeyError, AttributeError):
        return None  # loading reports what is wrong with the file
    return size if size is None or job.adapt.distill is None else _with_teacher(size)


def _with_teacher(size: ModelSize) -> ModelSize:
    """The size with a frozen copy of the pretrained model."""
    teacher = size.parameters - (0 if size.adapters is None else size.adapters.added)
    return replace(size, parameters=size.parameters + teacher, frozen=size.frozen + teacher, outside=2 * size.outside)


def find_model_size(
    pretrained: Pretrained,
    frozen: Sequence[str] = (),
    adapters: AnyAdapters | None = None,
    *,
    with_lm_head: bool = False,
    learns_head: bool | None = None,
) -> ModelSize | None:
    """The size from the files' headers, else from the config; None if neither has enough information.

    with_lm_head: whether the model is loaded with its language model head
    learns_head: whether a head is trained whole alongside adapters; absent: a classifier's is
    frozen: patterns of the names of frozen parameters; without the files they are counted as trained
    Raises ModelError for a broken file.
    """
    config = read_config(pretrained) or {}
    size = _size_of(
        pretrained, config, frozen, adapters, with_lm_head, not with_lm_head if learns_head is None else learns_head
    )
    return replace(size, vocabulary=_count(config, "vocab_size")) if size is not None and with_lm_head else size


def _size_of(
    pretrained: Pretrained,
    config: dict[str, Any],
    frozen: Sequence[str],
    spec: AnyAdapters | None,
    with_lm_head: bool,
    learns_head: bool,
) -> ModelSize | None:
    source = pretrained if pretrained.base is None else pretrained.base.pretrained
    shapes: dict[str, tuple[int, ...]] = {}
    for file in safetensors_files(source.kind, Path(source.location)):
        shapes |= _shapes(file, () if with_lm_head else DROPPED_HEADS)
    is_estimated = not shapes
    if is_estimated:
        if source.kind not in ("folder", "hub") or "model_type" not in config:
            return None
        if config["model_type"] in COUNTED:
            return _estimated(config, spec, with_lm_head, learns_head)
        shapes = _shapes_of_config(pretrained.config, _language_model(config) if with_lm_head else "AutoModel")
    if not shapes:
        return None
    size = _sized(Counter({name: prod(shape) for name, shape in shapes.items()}), config, frozen)
    size = replace(size, is_estimated=is_estimated)
    if spec is None:
        return size
    return _adapted(size, spec, from_shapes(spec, shapes, config, size.hidden, learns_head), shapes)


def _language_model(config: dict[str, Any]) -> str:
    """The class of `transformers` that builds the model with its language model head."""
    named = config.get("architectures")
    fills_masks = isinstance(named, list) and any("MaskedLM" in str(name) for name in named)
    return "AutoModelForMaskedLM" if fills_masks else "AutoModelForCausalLM"


@functools.cache
def _shapes_of_config(folder: str, auto_class: str) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters of a config's model; empty if `transformers` cannot build it."""
    request = ShapesRequest(config=folder, auto_class=auto_class)
    with tempfile.TemporaryDirectory(prefix="adaptrun-") as private:
        file = request.write(Path(private))
        try:
            subprocess.run(
                rank_command(file),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=SECONDS_TO_BUILD,
                check=True,
                env={**os.environ, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"},  # whichever rank makes the plan
            )
            return request.read_answer(file).shapes
        except (OSError, ValueError, subprocess.SubprocessError):
            return {}


def _adapted(size: ModelSize, spec: AnyAdapters, adapters: AdapterSize, shapes: Shapes) -> ModelSize:
    """The same model with adapters, all else frozen."""
    layers = linear_layers(shapes)
    in_4_bits = sum(prod(layers[name]) for name in in_blocks(layers)) if spec.is_quantised else 0
    return replace(
        size,
        parameters=size.parameters + adapters.added,
        block=size.block + adapters.added // max(1, size.layers),
        frozen=size.parameters - (adapters.learning - adapters.added),
        adapters=adapters,
        in_4_bits=in_4_bits,
    )


def _shapes(file: Path, left_out: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Shape of each floating-point tensor."""
    return {
        name: header.shape
        for name, header in headers_of(file).items()
        if header.dtype in FLOATS and not name.startswith(left_out)
    }


def _sized(counts: Counter[str], config: dict[str, Any], frozen: Sequence[str]) -> ModelSize:
    blocks = Counter[str]()
    for name, count in counts.items():
        layer = re.match(r".*?\.\d+\.", f".{name}")
        if layer is not None:
            blocks[layer.group()] += count
    return ModelSize(
        parameters=counts.total(),
        largest=max(counts.values()),
        block=max(blocks.values(), default=counts.total()),
        outside=counts.total() - blocks.total() if blocks else 0,
        frozen=sum(counts[name] for name in _matching(counts, frozen)),
        **_shape(config),
    )


def _matching(names: Iterable[str], patterns: Sequence[str]) -> set[str]:
    """Names that match a pattern; those of a file may lack the prefix (`bert.`) of the whole model's names."""
    found: set[str] = set()
    for pattern in patterns:
        named = {name for name in names if fnmatch(name, pattern)}
        found |= named or {name for name in names if fnmatch(name, pattern.partition(".")[2])}
    return found


def _estimated(
    config: dict[str, Any], spec: AnyAdapters | None, with_lm_head: bool, learns_head: bool
) -> ModelSize | None:
    shape = _shape(config)
    hidden, layers, heads, vocabulary = shape["hidden"], shape["layers"], shape["heads"], _count(config, "vocab_size")
    if not (hidden and layers and heads and vocabulary):
        return None
    head = _count(config, "head_dim") or hidden // heads
    queries, keys = heads * head, (_count(config, "num_key_value_heads") or heads) * head
    attention = 2 * hidden * queries + 2 * hidden * keys
    block = attention + (3 if shape["is_gated"] else 2) * hidden * shape["intermediate"] + 4 * hidden
    embeddings = vocabulary * hidden
    outside = 2 * embeddings if with_lm_head and config.get("tie_word_embeddings") is False else embeddings
    size = ModelSize(
        outside + layers * block, max(embeddings, block // 3), block, **shape, is_estimated=True, outside=outside
    )
    if spec is None:
        return size
    adapted = _adapted(size, spec, from_config(spec, config, shape, queries, keys, learns_head), {})
    return replace(adapted, in_4_bits=layers * (block - 4 * hidden) if spec.is_quantised else 0)


def hidden_size(config: dict[str, Any]) -> int:
    """Width of the hidden states, of the widest stage if there are several; 0 if the config does not have it."""
    widths = _inner(config).get("hidden_sizes")
    if isinstance(widths, list) and widths and all(type(width) is int and width > 0 for width in widths):
        return max(widths)
    return _first(config, "hidden_size", "n_embd", "d_model", "dim")


def _inner(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a config that describes the layers."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def _first(config: dict[str, Any], *names: str) -> int:
    inner = _inner(config)
    return next((count for name in names if (count := _count(inner, name))), 0)


def _shape(config: dict[str, Any]) -> dict[str, Any]:
    """The sizes, under the names that most configs use."""
    inner = _inner(config)

    def first(*names: str) -> int:
        return _first(config, *names)

    hidden = hidden_size(config)
    experts = first("num_experts_per_tok", "num_experts_per_token", "moe_top_k") or 1  # experts per token
    width = first("moe_intermediate_size", "intermediate_size", "n_inner", "ffn_dim", "hidden_dim", "d_ff")
    return {
        "layers": first("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
        "hidden": hidden,
        "intermediate": experts * (width or 4 * hidden),
        "heads": first("num_attention_heads", "n_head", "n_heads"),
        "patches": _patches(inner),
        "is_gated": str(inner.get("hidden_act", "")).lower() in GATED,
    }


def _patches(config: dict[str, Any]) -> int:
    image, patch = _count(config, "image_size"), _count(config, "patch_size")
    return (image // patch) ** 2 + 1 if image and patch else 0


def _count(config: dict[str, Any], name: str) -> int:
    """A count in a config; 0 if it is not a number."""
    value = config.get(name)
    return value if type(value) is int and value > 0 else 0
