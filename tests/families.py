"""A small job of each task family: a model of random weights, ragged data that it can learn, and what the job says."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.tiny import WORDS, tiny_model_folder

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }} </s> {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
SAMPLES = 22
"""With global batches of 8, an epoch ends in a short one; two ranks then have less than two micro-batches each."""


@dataclass(frozen=True)
class FamilyJob:
    """What a job of one family needs.

    model: saves a model folder
    data: writes samples, and gives the `data.train` of the job for them
    auto_class: the `transformers` class that must load the result
    train: fields of `train`
    metric: one that the family has beside the loss
    """

    task: str
    model: Callable[[Path], Path]
    data: Callable[[Path, int, int], dict[str, Any]]
    auto_class: str
    metric: str
    train: dict[str, Any] = field(default_factory=dict)


def texts(seed: int, samples: int, longest: int = 14) -> Iterator[list[str]]:
    """Ragged lists of words."""
    draw = random.Random(seed)
    for _ in range(samples):
        yield draw.choices(WORDS, k=draw.randint(2, longest))


def jsonl(file: Path, rows: Iterator[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def value(word: str) -> int:
    return WORDS.index(word)


def labelled(folder: Path, seed: int, samples: int) -> dict[str, Any]:
    rows = ({"text": " ".join(w), "label": "abc"[value(w[0]) % 3]} for w in texts(seed, samples))
    return {"source": jsonl(folder / f"{seed}.jsonl", rows)}


def pairs(folder: Path, seed: int, samples: int) -> dict[str, Any]:
    file = folder / f"{seed}.csv"
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["a", "b", "label"])
        for words in texts(seed, samples):
            writer.writerow([" ".join(words), words[-1], value(words[0]) % 2])
    return {"source": str(file), "text": "a", "text_pair": "b"}


def label_sets(folder: Path, seed: int, samples: int) -> dict[str, Any]:
    rows = (
        {"text": " ".join(w), "label": [n for n in "xyz" if value(w[0]) % (2 + "xyz".index(n)) == 0]}
        for w in texts(seed, samples)
    )
    return {"source": jsonl(folder / f"{seed}.jsonl", rows)}


def scored(folder: Path, seed: int, samples: int) -> dict[str, Any]:
    rows = ({"text": " ".join(w), "score": value(w[0]) / 50 - 1} for w in texts(seed, samples))
    return {"source": jsonl(folder / f"{seed}.jsonl", rows), "label": "score"}


def tagged(folder: Path, seed: int, samples: int) -> dict[str, Any]:
    file = folder / f"{seed}.conll"
    tags = ("O", "B-PER", "I-PER", "B-LOC")
    file.write_text(
        "\n".join("".join(f"{word} {tags[value(word) % 4]}\n" for word in words) for words in texts(seed, samples))
    )
    return {"source": str(file)}


def plain(folder: Path, seed: int, samples: int) -> dict[str, Any]:
    return {"source": jsonl(folder / f"{seed}.jsonl", ({"text": " ".join(w)} for w in texts(seed, samples)))}


def prompts(folder: Path, seed: int, samples: int) -> dict[str, Any]:
    rows = ({"prompt": " ".join(w[:-1]), "response": " ".join(w[-1:] * (1 + len(w) % 3))} for w in texts(seed, samples))
    return {"source": jsonl(folder / f"{seed}.jsonl", rows), "prompt": "prompt", "response": "response"}


def chats(folder: Path, seed: int, samples: int) -> dict[str, Any]:
    def turns(words: list[str]) -> list[dict[str, str]]:
        half = len(words) // 2
        return [
            {"role": "user", "content": " ".join(words[:half])},
            {"role": "assistant", "content": " ".join(words[half:])},
            {"role": "user", "content": words[0]},
            {"role": "assistant", "content": words[-1]},
        ]

    rows = ({"messages": turns(w)} for w in texts(seed, samples))
    return {"source": jsonl(folder / f"{seed}.jsonl", rows), "messages": "messages"}


def pictures(folder: Path, seed: int, samples: int) -> dict[str, Any]:
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(seed)
    for number in range(samples):
        pixels = draw.integers(0, 128, (10, 12), dtype=np.uint8)
        pixels[:, : 6 + 6 * (number % 2)] += np.uint8(60)
        place = folder / str(seed) / f"class-{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number:02}.png")
    return {"source": str(folder / str(seed))}


def sounds(folder: Path, seed: int, samples: int) -> dict[str, Any]:
    import wave

    import numpy as np

    draw = np.random.default_rng(seed)
    for number in range(samples):
        times = np.arange(draw.integers(200, 700)) / 1600
        tone = np.sin(2 * np.pi * (100 + 150 * (number % 2)) * times) * 0.5 + draw.normal(0, 0.1, len(times))
        place = folder / f"sounds-{seed}" / f"class-{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        with wave.open(str(place / f"{number:02}.wav"), "wb") as opened:
            opened.setparams((1, 2, 1600, 0, "NONE", ""))
            opened.writeframes((tone * 20000).astype("<i2").tobytes())
    return {"source": str(folder / f"sounds-{seed}")}


def bert(folder: Path) -> Path:
    return tiny_model_folder(folder)


def bert_with_words(folder: Path) -> Path:
    """With the head that guesses words."""
    import torch
    from transformers import AutoConfig, BertForMaskedLM

    tiny_model_folder(folder)
    torch.manual_seed(0)
    BertForMaskedLM(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    return folder


def llama(folder: Path) -> Path:
    """A Llama with tied embeddings over a vocabulary of `WORDS`, with a chat template."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<pad>", "<unk>", "</s>", "<user>", "<assistant>"]
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="</s>",
        additional_special_tokens=special[3:],
        chat_template=TEMPLATE,
        model_max_length=64,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=2,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def vit(folder: Path) -> Path:
    """A vision transformer over images of 16 × 16, without a head."""
    import torch
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=16,
        patch_size=8,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        hidden_dropout_prob=0.1,
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def wav2vec2(folder: Path) -> Path:
    """A model of raw sound at 1600 samples a second, without a head."""
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    Wav2Vec2FeatureExtractor(sampling_rate=1600).save_pretrained(folder)
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        conv_dim=(16, 16),
        conv_stride=(5, 4),
        conv_kernel=(10, 8),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        classifier_proj_size=16,
    )
    Wav2Vec2Model(config).save_pretrained(folder)
    return folder


CLASSIFIER, CAUSAL = "AutoModelForSequenceClassification", "AutoModelForCausalLM"
JOBS = {
    "focal": FamilyJob(
        "text-classification", bert, labelled, CLASSIFIER, "macro_f1", {"loss": {"name": "focal", "gamma": 1.5}}
    ),
    "pairs": FamilyJob("text-classification", bert, pairs, CLASSIFIER, "matthews"),
    "label sets": FamilyJob(
        "text-classification", bert, label_sets, CLASSIFIER, "micro_f1", {"loss": {"name": "binary"}}
    ),
    "regression": FamilyJob("text-regression", bert, scored, CLASSIFIER, "spearman"),
    "huber": FamilyJob("text-regression", bert, scored, CLASSIFIER, "mae", {"loss": {"name": "huber", "delta": 0.2}}),
    "tokens": FamilyJob("token-classification", bert, tagged, "AutoModelForTokenClassification", "f1"),
    "plain texts": FamilyJob("causal-lm", llama, plain, CAUSAL, "perplexity"),
    "responses": FamilyJob("causal-lm", llama, prompts, CAUSAL, "perplexity"),
    "chats, packed": FamilyJob("causal-lm", llama, chats, CAUSAL, "accuracy", {"packing": True}),
    "masked": FamilyJob("masked-lm", bert_with_words, plain, "AutoModelForMaskedLM", "perplexity"),
    "sounds": FamilyJob(
        "audio-classification",
        wav2vec2,
        sounds,
        "AutoModelForAudioClassification",
        "accuracy",
        {"max_seconds": 0.4},
    ),
    "images": FamilyJob(
        "image-classification",
        vit,
        pictures,
        "AutoModelForImageClassification",
        "accuracy",
        {"augment": {"flip": True, "crop": 2}},
    ),
}


def job_values(name: str, folder: Path, **train: Any) -> dict[str, Any]:
    """The job of a family, with its model and data written into `folder`.

    Dropout is off, since two worlds draw it differently; SGD, since Adam turns rounding into whole steps.
    """
    made = JOBS[name]
    return {
        "name": "job",
        "model": {"pretrained": str(made.model(folder / "model")), "dropout": 0.0},
        "task": made.task,
        "data": {
            "train": made.data(folder, 1, SAMPLES),
            "validation": {"held": made.data(folder, 2, 9)},
            "cache": str(folder / "cache"),
        },
        "train": {
            "epochs": 2,
            "global_batch_size": 8,
            "micro_batch_size": 3,
            "max_length": 32,
            "precision": "fp32",
            "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9},
            "schedule": {"name": "linear", "warmup": 0.1},
            **made.train,
            **train,
        },
        "validation": {"metric": made.metric},
        "launch": {"device": "cpu", "runs": str(folder / "runs")},
    }
