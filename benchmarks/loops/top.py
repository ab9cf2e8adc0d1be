"""A model of one layer on cached features, in the form of any other model: each sample is one word of its vocabulary.

The features are those of a sentence encoder; they are the frozen rows of a BERT's word embeddings, so that every method
of adaptrun trains the layer above them as it would train a whole model, thousands of samples a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

SPECIAL = ("[PAD]", "[UNK]", "[MASK]")
FROZEN = ["bert.embeddings.*_embeddings.*"]

Features = NDArray[np.float32]


def encode(encoder: str, texts: Sequence[str], batch: int = 64) -> Features:
    """Mean of the last hidden states over the words of each text [samples, width]."""
    tokenizer, model = AutoTokenizer.from_pretrained(encoder), AutoModel.from_pretrained(encoder).eval()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found = np.empty((len(texts), model.config.hidden_size), dtype=np.float32)
    with torch.inference_mode():
        for first in range(0, len(order), batch):
            which = order[first : first + batch]
            chosen = [texts[i] for i in which]
            inputs = tokenizer(chosen, padding=True, truncation=True, max_length=64, return_tensors="pt")
            mask = inputs["attention_mask"][..., None]
            hidden = model(**inputs).last_hidden_state
            found[which] = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
    return found


def word_of(sample: int) -> str:
    """The text that stands for a sample."""
    return f"s{sample}"


def write_top(folder: Path, features: Features) -> None:
    """A model folder whose vocabulary is the samples; its one layer is drawn at random."""
    width = features.shape[1]
    words = [*SPECIAL, *map(word_of, range(len(features)))]
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=width,
        num_hidden_layers=1,
        num_attention_heads=6,
        intermediate_size=2 * width,
        max_position_embeddings=8,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = BertModel(config)
    with torch.no_grad():
        for table in (model.embeddings.position_embeddings, model.embeddings.token_type_embeddings):
            table.weight.zero_()
        model.embeddings.word_embeddings.weight[len(SPECIAL) :] = torch.from_numpy(features)
    model.save_pretrained(folder)
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    special = dict(zip(("pad_token", "unk_token", "mask_token"), SPECIAL, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
