"""How large a model is, from the headers of its files and its config alone: no weight is read.

Where only a config is here, a formula counts the families that it is right for, in no time. A process of its own builds
any other model without memory, which takes the seconds that importing `transformers` takes.
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
"""Weights of the file that a classifier leaves out, and that are too large to be counted with the rest."""
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
    """What the memory of training follows from.

    parameters: all of them; frozen: those that do not learn; largest: of one tensor
    block: of one repeated layer; outside: of what is in none of them, such as embeddings
    layers, hidden, intermediate, heads: as the config has them; 0 where it does not say
    vocabulary: words that every token gets a score for; 0 for models that tell no words
    patches: tokens of an image; 0 for texts, whose length the job says
    is_gated: whether a feed-forward layer has three matrices instead of two
    is_estimated: counted from the config, since the files are not here
    adapters: what learns beside frozen weights; already a part of the counts
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
        """Parameters that have a gradient and moments."""
        return self.parameters - self.frozen

    def share(self, of: int, ranks: int) -> int:
        """How many of `of` parameters, those that learn among them, a rank has at most where rows are dealt out."""
        narrow = () if self.adapters is None else self.adapters.narrow
        uneven = sum(elements for _, elements in narrow)
        dealt = sum(ceil(rows / ranks) * elements // rows for rows, elements in narrow)
        return ceil((of - uneven) / ranks) + dealt


def size_of_job(job: Job) -> ModelSize | None:
    """How large the job's model is, with what its method adds; None where that is not known here."""
    try:
        tells_words = (find_family(job.task).auto_class or "").endswith("LM")
        learns_head = job.adapt.trains_head and not tells_words
        pretrained, adapters = find_pretrained(job.model), job.adapt.adapters
        size = find_model_size(pretrained, job.model.frozen, adapters, tells_words=tells_words, learns_head=learns_head)
    except (OSError, ValueError, KeyError, AttributeError):
        return None  # loading says what is wrong with the file
    return size if size is None or job.adapt.distill is None else _with_teacher(size)


def _with_teacher(size: ModelSize) -> ModelSize:
    """With the model as it came beside it, frozen."""
    teacher = size.parameters - (0 if size.adapters is None else size.adapters.added)
    return replace(size, parameters=size.parameters + teacher, frozen=size.frozen + teacher, outside=2 * size.outside)


def find_model_size(
    pretrained: Pretrained,
    frozen: Sequence[str] = (),
    adapters: AnyAdapters | None = None,
    *,
    tells_words: bool = False,
    learns_head: bool | None = None,
) -> ModelSize | None:
    """From the files' headers, else from the config; None where neither says enough.

    tells_words: whether the model is loaded as a language model, with its own head
    learns_head: whether there is a head that learns whole beside adapters; absent: a classifier's does
    frozen: patterns of the names of parameters that do not learn; without the files they are counted as learning
    Raises ModelError for a broken file.
    """
    config = read_config(pretrained) or {}
    size = _size_of(
        pretrained, config, frozen, adapters, tells_words, not tells_words if learns_head is None else learns_head
    )
    return replace(size, vocabulary=_count(config, "vocab_size")) if size is not None and tells_words else size


def _size_of(
    pretrained: Pretrained,
    config: dict[str, Any],
    frozen: Sequence[str],
    spec: AnyAdapters | None,
    tells_words: bool,
    learns_head: bool,
) -> ModelSize | None:
    source = pretrained if pretrained.base is None else pretrained.base.pretrained
    shapes: dict[str, tuple[int, ...]] = {}
    for file in safetensors_files(source.kind, Path(source.location)):
        shapes |= _shapes(file, () if tells_words else DROPPED_HEADS)
    is_estimated = not shapes
    if is_estimated:
        if source.kind not in ("folder", "hub") or "model_type" not in config:
            return None
        if config["model_type"] in COUNTED:
            return _estimated(config, spec, tells_words, learns_head)
        shapes = _shapes_of_config(pretrained.config, _language_model(config) if tells_words else "AutoModel")
    if not shapes:
        return None
    size = _sized(Counter({name: prod(shape) for name, shape in shapes.items()}), config, frozen)
    size = replace(size, is_estimated=is_estimated)
    if spec is None:
        return size
    return _adapted(size, spec, from_shapes(spec, shapes, config, size.hidden, learns_head), shapes)


def _language_model(config: dict[str, Any]) -> str:
    """The class of `transformers` that builds the model with its own head."""
    named = config.get("architectures")
    fills_masks = isinstance(named, list) and any("MaskedLM" in str(name) for name in named)
    return "AutoModelForMaskedLM" if fills_masks else "AutoModelForCausalLM"


@functools.cache
def _shapes_of_config(folder: str, auto_class: str) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters of the model that a config describes; empty where `transformers` cannot build it."""
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
                env={**os.environ, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"},  # whichever rank plans
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
    """Shape of each tensor of floats."""
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
    """Names that a pattern means; those of a file may lack the first part (`bert.`) that the whole model's have."""
    found: set[str] = set()
    for pattern in patterns:
        named = {name for name in names if fnmatch(name, pattern)}
        found |= named or {name for name in names if fnmatch(name, pattern.partition(".")[2])}
    return found


def _estimated(
    config: dict[str, Any], spec: AnyAdapters | None, tells_words: bool, learns_head: bool
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
    outside = 2 * embeddings if tells_words and config.get("tie_word_embeddings") is False else embeddings
    size = ModelSize(
        outside + layers * block, max(embeddings, block // 3), block, **shape, is_estimated=True, outside=outside
    )
    if spec is None:
        return size
    adapted = _adapted(size, spec, from_config(spec, config, shape, queries, keys, learns_head), {})
    return replace(adapted, in_4_bits=layers * (block - 4 * hidden) if spec.is_quantised else 0)


def hidden_size(config: dict[str, Any]) -> int:
    """Width of the hidden states; of the widest stage where there are several; 0 where the config does not say."""
    widths = _inner(config).get("hidden_sizes")
    if isinstance(widths, list) and widths and all(type(width) is int and width > 0 for width in widths):
        return max(widths)
    return _first(config, "hidden_size", "n_embd", "d_model", "dim")


def _inner(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a config that says what the layers are."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def _first(config: dict[str, Any], *names: str) -> int:
    inner = _inner(config)
    return next((count for name in names if (count := _count(inner, name))), 0)


def _shape(config: dict[str, Any]) -> dict[str, Any]:
    """The numbers under the names that most configs have."""
    inner = _inner(config)

    def first(*names: str) -> int:
        return _first(config, *names)

    hidden = hidden_size(config)
    experts = first("num_experts_per_tok", "num_experts_per_token", "moe_top_k") or 1  # that compute a token
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
    """A number of a config that counts something; 0 where it is none."""
    value = config.get(name)
    return value if type(value) is int and value > 0 else 0
