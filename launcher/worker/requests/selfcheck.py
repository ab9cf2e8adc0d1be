"""`adaptrun selfcheck`: make the model and the texts, and run several small jobs in one world."""

from __future__ import annotations

import csv
import random
from pathlib import Path

from launcher.job.requests import Done, SelfcheckMaterialRequest, SelfcheckRequest
from launcher.run.attempts import Attempt
from launcher.run.events import EventLog
from launcher.run.folder import RunFolder
from launcher.worker.rank.preemption import StopRequest
from launcher.worker.rank.process import RankProcess
from launcher.worker.rank.run_context import RunContext
from launcher.worker.rank.world import World
from launcher.worker.training.recipe import fine_tune

MATERIAL = "material"
SAMPLES = 70
"""Not a multiple of the global batch, so that each epoch ends with a smaller one."""


def serve_material(process: RankProcess, request: SelfcheckMaterialRequest) -> Done:
    """Make the model and the data that the cases share."""
    make_material(Path(request.folder) / MATERIAL)
    return Done()


def serve(process: RankProcess, request: SelfcheckRequest) -> Done:
    """Fine-tune each case with the ranks of this world."""
    with World.at(process.place, "cpu").joined(timeout_minutes=5) as world:
        for folder in (RunFolder(Path(request.folder) / case) for case in request.cases):
            log = EventLog(folder.events_file if world.is_first else None)
            context = RunContext(folder.job(), folder.plan(), folder, world, log, Attempt())
            fine_tune(context, StopRequest())
            log.close()
    return Done()


def make_material(folder: Path) -> None:
    """A BERT with random weights, its tokenizer, and texts of different lengths in three classes."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = [f"{a}{b}{c}" for a in "bdfgklmn" for b in "aeiou" for c in "nrst"]
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=64
    ).save_pretrained(folder / "model")
    torch.manual_seed(0)
    names = {0: "a", 1: "b", 2: "c"}
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=64,
        id2label=names,
        label2id={name: number for number, name in names.items()},
    )
    BertForSequenceClassification(config).save_pretrained(folder / "model")
    draw = random.Random(0)
    with (folder / "train.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for _ in range(SAMPLES):
            text = draw.choices(words, k=draw.randint(1, 30))
            writer.writerow([" ".join(text), "abc"[words.index(text[0]) % 3]])
