"""Models and data small enough for every test: real formats, random contents."""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from pathlib import Path

WORDS = [f"{a}{b}{c}" for a in "bdfgklmn" for b in "aeiou" for c in "nrst"]


def tiny_model_folder(
    folder: Path, *, layers: int = 2, hidden: int = 32, dropout: float = 0.1, words: Sequence[str] = WORDS
) -> Path:
    """Save a BERT of random weights over a vocabulary of `words`, as a Hugging Face folder."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: number for number, word in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * hidden,
        max_position_embeddings=64,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def write_texts(path: Path, samples: int, *, seed: int = 0, classes: int = 2, longest: int = 20) -> Path:
    """Write a csv of ragged random texts; the first word decides the class, so a model can learn it."""
    draw = random.Random(seed)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for _ in range(samples):
            words = draw.choices(WORDS, k=draw.randint(1, longest))
            writer.writerow([" ".join(words), f"class-{WORDS.index(words[0]) % classes}"])
    return path
