"""Small models of many architectures, with random weights large enough that a difference shows, and a tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tiny import WORDS

NAMES = {
    "bert": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    "bart": ("<pad>", "<unk>", "<s>", "</s>", "<mask>"),
    "eos": ("<pad>", "<unk>", "<s>", "</s>", "<mask>"),
}
"""By the style of a tokenizer: [CLS] A [SEP], <s> A </s>, or A </s>."""


def word_tokenizer(style: str, **options: Any) -> Any:
    """A tokenizer of `WORDS`, whose special tokens are the first ones, padding 0 and the end 3."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    padding, unknown, begin, end, mask = NAMES[style]
    vocabulary = {word: number for number, word in enumerate([*NAMES[style], *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    first = "" if style == "eos" else f"{begin} "
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first}$A {end}", pair=f"{first}$A {end} $B {end}", special_tokens=[(begin, 2), (end, 3)]
    )
    ends = {"cls_token": begin, "sep_token": end} if style == "bert" else {"bos_token": begin, "eos_token": end}
    given = {"pad_token": padding, "unk_token": unknown, "mask_token": mask, **ends, **options}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **given)


ENCODER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
DECODER = {**ENCODER, "num_key_value_heads": 2}
EXPERTS = {"num_experts_per_tok": 2}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 4,
    "long_factor": [1.0, 3.0, 9.0, 20.0],
    "original_max_position_embeddings": 16,
    "rope_theta": 10_000.0,
}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10_000.0}
SEQUENCE_TO_SEQUENCE = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "decoder_start_token_id": 3,
}
SIZES: dict[str, dict[str, Any]] = {
    "bert": ENCODER,
    "roberta": ENCODER,
    "albert": {**ENCODER, "embedding_size": 16},
    "electra": {**ENCODER, "embedding_size": 16},
    "deberta-v2": {**ENCODER, "relative_attention": True, "position_biased_input": False, "pos_att_type": ["p2c"]},
    "modernbert": {**ENCODER, "global_attn_every_n_layers": 2, "local_attention": 8},
    "fnet": {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "max_position_embeddings": 128},
    "convbert": {**ENCODER, "embedding_size": 32},
    "big_bird": {
        **ENCODER,
        "block_size": 4,
        "num_random_blocks": 1,
        "attention_type": "block_sparse",
        "sep_token_id": 3,
    },
    "longformer": {**ENCODER, "attention_window": 8, "sep_token_id": 3},
    "funnel": {
        "d_model": 32,
        "block_sizes": [1, 1],
        "n_head": 4,
        "d_head": 8,
        "d_inner": 64,
        "architectures": ["FunnelBaseModel"],
    },
    "mpnet": ENCODER,
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 128},
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "llama": DECODER,
    "phi3": {**DECODER, "original_max_position_embeddings": 16, "rope_parameters": LONGROPE},
    "qwen2": DECODER,
    "mistral": {**DECODER, "sliding_window": 8},
    "mixtral": {**DECODER, **EXPERTS, "num_local_experts": 4},
    "gpt_neox": ENCODER,
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "bart": {**SEQUENCE_TO_SEQUENCE, "max_position_embeddings": 128},
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0},
}
"""By the name of an architecture, what makes it small."""
STYLES = {"bart": "bart", "xlnet": "bart"} | dict.fromkeys(
    ("t5", "gpt2", "llama", "phi3", "qwen2", "mistral", "mixtral", "gpt_neox", "bloom"), "eos"
)
WEIGHTS = {"initializer_range": 0.2}
SEEN_PADDING = {"fnet", "convbert", "big_bird", "xlnet", "phi3", "dynamic", "canine"}
"""Those whose numbers padding changes, with the data of the tests."""


def small_model(kind: str, folder: Path, auto_class: str = "AutoModel", **settings: Any) -> Path:
    """Save a model of an architecture, without dropout, with its tokenizer."""
    import torch
    import transformers
    from transformers import AutoConfig, CanineTokenizer

    tokenizer = CanineTokenizer() if kind == "canine" else word_tokenizer(STYLES.get(kind, "bert"))
    tokenizer.save_pretrained(folder)
    if kind == "canine":
        sizes: dict[str, Any] = {**ENCODER, "downsampling_rate": 4, "local_transformer_stride": 16}
        sizes |= {"max_position_embeddings": 256, "num_hash_buckets": 256}
    elif kind == "dynamic":
        sizes = {**DECODER, "max_position_embeddings": 16, "rope_parameters": DYNAMIC, "vocab_size": len(tokenizer)}
    else:
        sizes = {**SIZES[kind], "vocab_size": len(tokenizer)}
    numbers = {} if kind == "canine" else {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    name = {"dynamic": "llama"}.get(kind, kind)
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **{**numbers, **WEIGHTS, **sizes, **settings})
    for setting, value in config.to_dict().items():
        if "drop" in setting and isinstance(value, float):
            setattr(config, setting, 0.0)
    getattr(transformers, auto_class).from_config(config).save_pretrained(folder)
    return folder
